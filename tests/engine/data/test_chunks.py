"""Large files in ranges of rows: every row is in one range, whatever the row groups are."""

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from adaptdock.engine.data.chunks import row_file
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError


def write(path: Path, groups: list[int]) -> Path:
    table = pyarrow.table({"text": [f"row {number}" for number in range(sum(groups))]})
    with parquet.ParquetWriter(path, table.schema) as writer:
        for number, rows in enumerate(groups):
            writer.write_table(table.slice(sum(groups[:number]), rows))
    return path


@pytest.mark.parametrize(
    ("groups", "ranges"),
    [
        ([3, 3, 3, 3], [(0, 9), (9, 12)]),
        ([25], [(0, 10), (10, 20), (20, 25)]),
        ([4, 15, 2], [(0, 4), (4, 14), (14, 21)]),
        ([], []),
    ],
)
def test_a_range_has_whole_row_groups_or_is_a_piece_of_one(tmp_path, groups, ranges):
    file = row_file(write(tmp_path / "in.parquet", groups), "auto", Texts())
    assert list(file.ranges(10)) == ranges
    assert file.rows == sum(groups)


@pytest.mark.parametrize("name", ["in.parquet", "in.txt", "in.jsonl", "in.csv"])
@pytest.mark.parametrize("wanted", [[0, 1, 2], [1], [0, 2]])
def test_the_rows_of_a_range_are_read_although_ranges_before_it_are_not(tmp_path, name, wanted):
    path = tmp_path / name
    if name == "in.parquet":
        write(path, [4, 15, 2])
    else:
        rows = [f"row {number}" for number in range(21)]
        texts = {
            "in.jsonl": [f'{{"text": "{row}"}}\n\n' for row in rows],
            "in.csv": ["text\n", *(f"{r}\n" for r in rows)],
        }
        path.write_text("".join(texts.get(name, [f"{row}\n" for row in rows])))
    file = row_file(path, "auto", Texts())
    ranges = [(0, 4), (4, 14), (14, 24)]
    for number in wanted:
        start, end = ranges[number]
        chunks = list(file.take(start, end, size=3))
        texts = [text for chunk in chunks for text in chunk.columns.column("text").to_pylist()]
        assert texts == [f"row {row}" for row in range(start, min(end, 21))]
        assert [chunk.start for chunk in chunks][:1] == [start]
        assert all(len(chunk.values) <= 3 for chunk in chunks)
    assert list(file.take(30, 40, size=3)) == []


def test_json_values_that_fit_no_column_of_the_first_rows_are_in_a_column_of_their_own(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = ['{"text": "a", "n": 1, "tags": ["x"]}'] * 1000 + ['{"text": "b", "n": "two", "tags": [1], "new": null}']
    path.write_text("\n".join(rows))
    (chunk,) = row_file(path, "auto", Texts()).take(1000, 1001, 10)
    assert chunk.columns.to_pylist() == [{"text": "b", "n": None, "tags": "[1]", "rest": '{"n": "two", "new": null}'}]


def test_a_row_that_cannot_be_read_is_an_error_in_its_place_and_the_rows_after_it_are_read(tmp_path):
    (tmp_path / "in.csv").write_text("text,x\na,1\nb\nc,2\n")
    (tmp_path / "in.jsonl").write_bytes(
        b'{"text": "a"}\n{"text": \n{"text": "\xff"}\n{"text": "\\ud800"}\n{"text": "c"}\n'
    )
    for name, errors in (("in.csv", [1]), ("in.jsonl", [1, 2, 3])):
        (chunk,) = row_file(tmp_path / name, "auto", Texts()).take(0, 10, 10)
        assert [number for number, value in enumerate(chunk.values) if isinstance(value, DataError)] == errors
        assert chunk.values[-1]["text"] == "c"


def test_a_damaged_page_names_the_file(tmp_path):
    path = write(tmp_path / "in.parquet", [5000, 5000])
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 200] = bytes(200)
    path.write_bytes(content)
    file = row_file(path, "auto", Texts())
    with pytest.raises(DataError, match=r"in\.parquet: the rows from \d+ on cannot be read"):
        list(file.take(0, 10_000, 1000))


def test_a_format_that_is_read_as_a_whole_is_refused(tmp_path):
    (tmp_path / "in.conll").write_text("a O\n")
    with pytest.raises(DataError, match=r"in\.conll: a file of the format conll is read as a whole"):
        row_file(tmp_path / "in.conll", "auto", Texts())


def test_lines_of_fasttext_are_not_taken_for_plain_texts(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("__label__sport The striker scored.\n")
    with pytest.raises(DataError, match=r"in\.txt: a file of the format fasttext is read as a whole"):
        row_file(path, "auto", Texts())
