"""Encodings: byte order marks, UTF-16 without one, files that are not text; each advice is followed."""

import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.data.sources import Reader, Source
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError
from adaptdock.tasks.classification import Classification

CONTENT = 'text,label\r\n"café – один\nline two",x\r\nb,y\r\n'


def read(path: Path, **source: Any) -> tuple[list[tuple[str, str]], list[str]]:
    reader = Reader(Classification, Source(**source))
    records = reader.file(path)
    return [(record["text"], record["label"]) for record in records], reader.notes()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(CONTENT.encode(encoding))
    records, notes = read(path)
    assert records == [("café – один\nline two", "x"), ("b", "y")]
    assert notes == (
        [] if encoding == "utf-8-sig" else [f"a.csv: read as {encoding.upper()}, as its byte order mark says"]
    )


@pytest.mark.parametrize("order", ["le", "be"])
def test_utf_16_without_a_mark_is_refused_and_the_advice_works(tmp_path: Path, order: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\na good day,x\n".encode(f"utf-16-{order}"))
    with pytest.raises(DataError, match="UTF-16 without a byte order mark") as refused:
        read(path)
    advice = re.search(r"--encoding (\S+)", str(refused.value))
    assert advice is not None
    assert read(path, encoding=advice[1])[0] == [("a good day", "x")]
    assert read(path, encoding="utf-16")[0] == [("a good day", "x")]


def test_the_advice_for_lines_that_are_not_utf_8_works_with_a_mark_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\ncaf\xe9,x\n")
    with pytest.raises(DataError, match="such as latin-1; --encoding auto"):
        read(path)
    for encoding in ("latin-1", "auto"):
        assert read(path, encoding=encoding)[0] == [("café", "x")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04\x14\x00", "cannot be unpacked, and is damaged"),
        (gzip.compress(gzip.compress(b"text,label\n", mtime=0), mtime=0), "compressed twice by gzip"),
        (b"PAR1\x15\x04", "not a Parquet file that can be read"),
        (bytes(range(256)), "not a text file: it has NUL bytes"),
    ],
)
def test_what_is_not_text_is_refused_by_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.csv")


def test_wide_text_that_breaks_off_names_the_line_before(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\ntwo".encode("utf-16") + b"\x00")
    with pytest.raises(DataError, match=r"not valid UTF-16-LE after line 1"):
        list(Texts().lines(tmp_path / "a.txt"))
