"""Tables and JSON: names of columns that differ or occur twice, delimiters, large cells; each advice is followed."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import DataError, UnknownNameError
from adaptdock.tasks.classification import Classification


def read(path: Path, content: str, **source: Any) -> tuple[list[tuple[str, str]], list[str]]:
    path.write_text(content, encoding="utf-8")
    reader = Reader(Classification, Source(**source))
    records = reader.file(path)
    return [(record["text"], record["label"]) for record in records], reader.notes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label,text\na,x,b\n"),
        ("a.tsv", "text\tlabel\ttext\na\tx\tb\n"),
        ("a.jsonl", '{"text": "a", "label": "x", "text": "b"}\n'),
        ("a.json", '[{"text": "a", "label": "x", "text": "b"}]'),
    ],
)
def test_two_columns_of_one_name_are_refused_with_their_positions(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(DataError, match=r"'text'.* 1 and .*3.* Rename one of them"):
        read(tmp_path / name, content)


def test_two_columns_of_one_name_are_refused_in_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table([["a"], ["x"], ["b"]], names=["text", "label", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"named 'text': column 1 and column 3"):
        Reader(Classification, Source()).file(tmp_path / "a.parquet")


def test_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "text,label,,\na,x,,\n")[0] == [("a", "x")]


@pytest.mark.parametrize("header", ["Text,Label", " text, label ", "TEXT,LABEL"])
def test_a_name_that_differs_in_case_or_space_is_guessed_and_said(tmp_path: Path, header: str) -> None:
    records, notes = read(tmp_path / "a.csv", f"{header}\na,x\nb,y\n")
    assert records == [("a", "x"), ("b", "y")]
    guesses = [
        f"{field} is read from the column {name!r}"
        for field, name in zip(("text", "label"), header.split(","), strict=True)
    ]
    assert all(guess in line for guess, line in zip(guesses, notes, strict=True))


def test_an_exact_name_wins_and_the_other_is_said(tmp_path: Path) -> None:
    records, notes = read(tmp_path / "a.csv", "Text,text,label\nb,a,x\n")
    assert records == [("a", "x")]
    assert "there is 'Text' too (--columns text=Text)" in notes[0]
    records, notes = read(tmp_path / "a.csv", "Text,text,label\nb,a,x\n", columns={"text": "Text"})
    assert (records, notes) == ([("b", "x")], [])


def test_two_guesses_are_refused_and_the_advice_works(tmp_path: Path) -> None:
    content = "Text,TEXT,label\na,b,x\n"
    with pytest.raises(DataError, match=r"columns 'Text' and 'TEXT' could both be text.*--columns text=Text"):
        read(tmp_path / "a.csv", content)
    assert read(tmp_path / "a.csv", content, columns={"text": "Text"})[0] == [("a", "x")]


def test_another_column_that_could_be_the_label_is_said(tmp_path: Path) -> None:
    records, notes = read(tmp_path / "a.csv", "text,category,label\na,y,x\n")
    assert records == [("a", "x")]
    assert "label is read from the column 'label'; there is 'category' too" in notes[0]


@pytest.mark.parametrize(("delimiter", "said"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_another_delimiter_is_found_by_the_header_and_said(tmp_path: Path, delimiter: str, said: str) -> None:
    records, notes = read(tmp_path / "a.csv", f'text{delimiter}label\n"a, b"{delimiter}x\nc{delimiter}y\n')
    assert records == [("a, b", "x"), ("c", "y")]
    assert f"divided by {said}" in notes[0]


def test_a_cell_may_have_a_million_characters(tmp_path: Path) -> None:
    records, _ = read(tmp_path / "a.csv", f'text,label\n"{"word " * 200_000}",x\n')
    assert len(records[0][0]) == 1_000_000


def test_a_quotation_mark_that_is_not_closed_is_named_by_its_line(tmp_path: Path) -> None:
    content = "text,label\na,x\n" + '"b,y\n' + "c,z\n" * 40
    with pytest.raises(DataError, match=r"The row begins at line 3: probably a quotation mark"):
        read(tmp_path / "a.csv", content)


def test_a_table_without_a_header_says_so_and_the_advice_works(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column for text.*not a header, give numbers \(--columns text=0\)"):
        read(tmp_path / "a.csv", "good,x\nbad,y\n")
    records, _ = read(tmp_path / "a.csv", "good,x\nbad,y\n", columns={"text": "0"})
    assert records == [("good", "x"), ("bad", "y")]


def test_a_field_that_the_task_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="field in --columns 'txt': did you mean text"):
        read(tmp_path / "a.csv", "a,label\nx,y\n", columns={"txt": "a"})


def test_a_json_document_with_a_fault_is_named_with_its_line(tmp_path: Path) -> None:
    rows = [json.dumps({"text": "a", "label": "x"})] * 2
    with pytest.raises(DataError, match=r"a\.json: not JSON: .* line 4"):
        read(tmp_path / "a.json", "[\n" + ",\n".join(rows) + ",\n]")
    with pytest.raises(DataError, match=r"spans of characters only, which --task ner learns from"):
        read(tmp_path / "a.json", '[["Ada", {"entities": [[0, 3, "PER"]]}]]')
