"""Packed files: gzip, a ZIP archive of one file, and Excel tables are read as if they were unpacked."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from adaptdock.engine.data.packed import data_suffix
from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import DataError
from adaptdock.tasks.classification import Classification

ROWS = [("a good day", "praise"), ("a bad day", "complaint")]
CSV = "".join(f"{text},{label}\n" for text, label in [("text", "label"), *ROWS]).encode()


def archive(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return stream.getvalue()


def read(path: Path) -> tuple[list[tuple[str, str]], list[str]]:
    reader = Reader(Classification, Source(data=str(path)))
    records = reader.splits()["train"]
    return [(record["text"], record["label"]) for record in records], reader.notes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", gzip.compress(CSV, mtime=0)),
        (
            "a.gz",
            gzip.compress(
                b'{"text": "a good day", "label": "praise"}\n{"text": "a bad day", "label": "complaint"}\n', mtime=0
            ),
        ),
        ("a.zip", archive(**{"reviews.csv": CSV})),
        ("a.zip", archive(**{"reviews.csv": CSV, "README.md": b"text", "__MACOSX/._reviews.csv": b""})),
        ("a.csv", gzip.compress(CSV, mtime=0)),
    ],
)
def test_a_packed_file_is_read_as_its_content(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name)[0] == ROWS


def test_places_are_lines_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV + b"only one cell\n", mtime=0))
    with pytest.raises(DataError, match=r"a\.csv\.gz:4: 1 columns, the header has 2"):
        read(tmp_path / "a.csv.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv.gz", gzip.compress(CSV * 100, mtime=0)[:-30], "cannot be unpacked, and is damaged or incomplete"),
        ("a.zip", archive(**{"a.csv": CSV, "b.csv": CSV}), r"a ZIP archive with 2 data files \(a\.csv, b\.csv\)"),
        ("a.zip", archive(**{"LICENSE": b"text"}), r"a ZIP archive with 0 data files \(none\)"),
        ("a.zip", archive(**{"a.csv": CSV})[:-20], "cannot be unpacked"),
        ("a.csv.gz", gzip.compress(gzip.compress(CSV, mtime=0), mtime=0), "compressed twice by gzip"),
    ],
)
def test_what_cannot_be_unpacked_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_the_suffix_of_a_packed_file_is_that_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(archive(**{"b.JSONL": b""}))
    assert data_suffix(tmp_path / "a.zip") == ".jsonl"
    assert data_suffix(Path("reviews.CSV.gz")) == ".csv"
    assert data_suffix(Path("reviews.tsv")) == ".tsv"


def test_the_first_sheet_of_an_excel_file_is_a_table(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="reads Excel files: pip install 'adaptdock[excel]'")
    book = openpyxl.Workbook()
    book.active.title = "reviews"
    for row in [("text", "label"), ("a, b; c", 1.0), ('say "x"\nand more', 2), ("empty", None)]:
        book.active.append(row)
    book.create_sheet("notes").append(["nothing"])
    book.save(tmp_path / "a.xlsx")
    rows, notes = read(tmp_path / "a.xlsx")
    assert rows == [("a, b; c", "1"), ('say "x"\nand more', "2"), ("empty", "")]
    assert "a.xlsx: the first sheet, 'reviews', is read, and not 'notes'" in notes
