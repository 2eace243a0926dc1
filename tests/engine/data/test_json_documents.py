"""Shapes of JSON documents: each is read as the same rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import DataError
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.ner import NER

ROWS = [("good", "pos"), ("bad", "neg"), ("fine", "pos")]
OBJECTS = [{"text": text, "label": label} for text, label in ROWS]
SHAPES: dict[str, Any] = {
    "objects": OBJECTS,
    "lists": ROWS,
    "lists with a header": [["text", "label"], *ROWS],
    "named data": {"version": 1, "data": OBJECTS},
    "named data of lists": {"data": ROWS},
    "columns": {"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]},
    "pandas columns": {
        "text": {str(number): text for number, (text, _) in enumerate(ROWS)},
        "label": {str(number): label for number, (_, label) in enumerate(ROWS)},
    },
    "pandas index": {str(number): row for number, row in enumerate(OBJECTS)},
    "lists by number": {str(number): row for number, row in enumerate(ROWS)},
    "pandas split": {"columns": ["text", "label"], "index": [0, 1, 2], "data": ROWS},
}


def read(path: Path, content: Any, **source: Any) -> dict[str, list[tuple[str, str]]]:
    path.write_text(json.dumps(content))
    splits = Reader(Classification, Source(data=str(path), **source)).splits()
    return {split: [(record["text"], record["label"]) for record in records] for split, records in splits.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_the_same_rows(tmp_path: Path, shape: str) -> None:
    assert read(tmp_path / "a.json", SHAPES[shape]) == {"train": ROWS}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_document_holds_splits_of_each_shape(tmp_path: Path, shape: str) -> None:
    document = {"train": SHAPES[shape], "dev": SHAPES[shape], "test": SHAPES[shape]}
    assert read(tmp_path / "a.json", document) == {"train": ROWS, "validation": ROWS, "test": ROWS}


def test_the_splits_of_a_document_are_read_one_by_one_too(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": ROWS, "test": ROWS[:1]}))
    reader = Reader(Classification, Source(test=str(path)))
    assert len(reader.splits()["test"]) == 1
    assert any("test is read from its part 'test'" in line for line in reader.notes())
    with pytest.raises(DataError, match="it has the splits train, test, and no validation data"):
        Reader(Classification, Source(validation=str(path))).splits()


def test_lists_are_read_by_the_columns_that_are_named(tmp_path: Path) -> None:
    swapped = [[label, text] for text, label in ROWS]
    assert read(tmp_path / "a.json", swapped, columns={"text": "1", "label": "0"}) == {"train": ROWS}
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    records = Reader(Classification, Source()).file(tmp_path / "a.jsonl")
    assert [(record["text"], record["label"]) for record in records] == ROWS


def test_one_sentence_is_not_taken_for_columns(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"tokens": ["Ada", "x"],\n "tags": ["B-PER", "O"]}')
    (record,) = Reader(NER, Source()).file(tmp_path / "a.json")
    assert record["tokens"] == ["Ada", "x"]
    (tmp_path / "b.json").write_text('{"tokens": [["Ada"], ["x"]],\n "tags": [["B-PER"], ["O"]]}')
    assert [record["tokens"] for record in Reader(NER, Source()).file(tmp_path / "b.json")] == [["Ada"], ["x"]]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (["a", "b"], "element 0 of this one is a str"),
        (3, "this one is a int"),
        ([["a", "x"], ["b"]], r"a\.json\[1\]: a list of 1, where the first has 2"),
        ([["a", "x"], {"text": "b"}], "element 0 of this one is a list"),
    ],
)
def test_another_shape_is_refused(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.json", document)


def test_what_describes_the_data_beside_its_splits_is_not_read_and_named(tmp_path: Path) -> None:
    document = {"meta": {"version": 1}, "licence": "CC0", "train": OBJECTS, "test": OBJECTS[:1]}
    assert read(tmp_path / "a.json", document) == {"train": ROWS, "test": ROWS[:1]}
    reader = Reader(Classification, Source(data=str(tmp_path / "a.json")))
    reader.splits()
    assert any("test is read from its part 'test'; 'meta', 'licence': not read" in line for line in reader.notes())
