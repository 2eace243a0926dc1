"""Delimiters of tables: a table of any cells is read back whatever divides its columns."""

import csv
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.engine.data.delimiters import delimiter_of
from adaptdock.engine.data.sources import Reader, Source
from adaptdock.tasks.classification import Classification

CELLS = st.text("aé,;|\t\"'\n #=O語😀\u00ad\u00a0", max_size=12).filter(str.strip)
"""Cells with delimiters, quotation marks and line breaks in them."""
ROWS = st.lists(st.tuples(CELLS, st.sampled_from(["yes", "no; never", "a,b"])), min_size=1, max_size=30)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


def written(rows: list[tuple[str, ...]], delimiter: str, line_end: str = "\n") -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows(rows)
    return stream.getvalue()


def read(content: bytes, name: str = "a.csv", **columns: str) -> tuple[list[tuple[str, str]], list[str]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        reader = Reader(Classification, Source(columns=columns))
        return [(record["text"], record["label"]) for record in reader.file(path)], reader.notes()


@given(ROWS, st.sampled_from([("text", "label"), ("Message", " Class ")]), st.sampled_from(",;\t|"), ENCODINGS)
def test_rows_come_back_whatever_delimiter_and_encoding_a_spreadsheet_chose(
    rows: list[tuple[str, str]], header: tuple[str, str], delimiter: str, encoding: str
) -> None:
    content = written([header, *rows], delimiter, "\r\n").encode(encoding)
    assert read(content)[0] == rows
    separator = f"sep={delimiter}\r\n".encode("utf-16-le" if encoding == "utf-16" else "utf-8")
    mark = {"utf-8": 0, "utf-8-sig": 3, "utf-16": 2}[encoding]
    assert read(content[:mark] + separator + content[mark:])[0] == rows


@given(ROWS.filter(lambda rows: len(rows) > 1), st.sampled_from(",;\t|"))
def test_rows_without_a_header_come_back_by_number(rows: list[tuple[str, str]], delimiter: str) -> None:
    content = written([(label, text) for text, label in rows], delimiter).encode()
    assert read(content, text="1", label="0")[0] == rows


def test_a_corpus_without_header_and_suffix_is_read_as_the_error_says() -> None:
    lines = b'ham\tOk, lar... "Joking" wif u, oni\nspam\t"Win, win\nham\tSo?\n'
    rows, notes = read(lines, "SMSSpamCollection", text="1", label="0")
    assert rows == [('Ok, lar... "Joking" wif u, oni', "ham"), ('"Win, win', "spam"), ("So?", "ham")]
    assert "columns are divided by tabs, as only they make rows of equal width" in notes[0]


def test_a_header_with_unknown_names_is_divided_as_its_rows_are() -> None:
    content = b"Satz;Klasse\nJa, gern;gut\nNein, nein;schlecht\n"
    assert read(content, text="Satz", label="Klasse")[0] == [("Ja, gern", "gut"), ("Nein, nein", "schlecht")]
    assert delimiter_of(content.decode().splitlines(), ",", False, set()).character == ";"


@pytest.mark.parametrize("head", [["one, two; three"], ["a;b", "c"], ["a", "b"], [], ["\n", " "]])
def test_the_usual_delimiter_is_kept_where_the_rows_do_not_tell(head: list[str]) -> None:
    assert delimiter_of(head, ",", True, set()).character == ","


def test_a_row_of_several_lines_is_named_by_its_first_and_empty_rows_are_counted() -> None:
    content = b'sep=;\ntext;label\n"a\nb\nc";x\n;\n ; \nd\n'
    with pytest.raises(Exception, match=r"a\.csv:8: 1 columns, the header has 2"):
        read(content)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(content[:-2])
        reader = Reader(Classification, Source())
        assert [record["where"] for record in reader.file(path)] == [f"{path}:3"]
        assert any("2 rows have no value in any column and are left out, such as" in note for note in reader.notes())


def test_line_breaks_of_an_old_macintosh_end_in_an_error() -> None:
    with pytest.raises(Exception, match=r"a\.csv:1: not CSV: new-line character"):
        read(b"text,label\ra,x\rb,y\r")
