"""Data of a Python program: tables of plain values from every kind of object, read like files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

from adaptdock.engine.data.objects import table_of
from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import AdaptError, DataError, UsageError
from adaptdock.plugins import registry

ROWS = [{"text": "ada runs", "label": "sport"}, {"text": "bob sings", "label": "music"}] * 3
FORMS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": lambda rows: (row for row in rows),
    "pandas": pd.DataFrame,
    "pandas categories": lambda rows: pd.DataFrame(rows).astype({"label": "category"}),
    "dataset": datasets.Dataset.from_list,
    "dataset as torch": lambda rows: datasets.Dataset.from_list(rows).with_format("torch"),
    "streamed dataset": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "arrow": lambda rows: datasets.Dataset.from_list(rows).data.table,
    "pairs": lambda rows: [(row["text"], row["label"]) for row in rows],
    "pandas without names": lambda rows: pd.DataFrame([[row["text"], row["label"]] for row in rows]),
}


def read(data: Any, task: str = "classification", **columns: str) -> tuple[list[dict[str, Any]], list[str]]:
    reader = Reader(registry.load("task", task), Source(data=table_of(data), columns=columns))
    records = reader.splits()["train"]
    return [{name: value for name, value in record.items() if name != "where"} for record in records], reader.notes()


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_object_is_read_like_the_file_with_its_rows(form: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    from_file = Reader(registry.load("task", "classification"), Source(data=str(tmp_path / "rows.jsonl"))).splits()
    assert read(FORMS[form](ROWS))[0] == [
        {name: value for name, value in record.items() if name != "where"} for record in from_file["train"]
    ]


def test_a_polars_frame_is_read_like_a_list_of_its_rows() -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    assert read(polars.DataFrame(ROWS)) == read(ROWS)
    assert read(polars.DataFrame(ROWS).lazy()) == read(ROWS)


def test_numbers_of_classes_become_their_names() -> None:
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    table = datasets.Dataset.from_list([{"tokens": ["ada", "runs"], "ner_tags": [1, 0]}], features=features)
    assert read(table, "ner")[0] == [{"tokens": ["ada", "runs"], "tags": ["B-PER", "O"]}]


def test_values_of_numpy_torch_and_pandas_become_plain_and_missing_ones_none() -> None:
    row = {
        "numbers": np.array([1, 2]),
        "number": np.float32(0.5),
        "tensor": torch.tensor([[3]]),
        "nested": [{"missing": float("nan")}, (pd.NA, pd.NaT, None)],
        7: np.str_("a"),
    }
    assert table_of([row]).rows == (
        {"numbers": [1, 2], "number": 0.5, "tensor": [[3]], "nested": [{"missing": None}, [None] * 3], "7": "a"},
    )
    assert [row["label"] for row in table_of(pd.DataFrame({"label": ["a", None]})).rows] == ["a", None]


def test_spans_of_characters_are_found_in_rows_as_in_files() -> None:
    text = "Ada runs"
    marks = [{"text": text, "label": [[0, 3, "PER"]]}, {"text": text, "label": []}]
    pairs = [(text, {"entities": [(0, 3, "PER")]}), (text, {"entities": []})]
    task = registry.load("task", "ner")
    for rows in (marks, pairs, pd.DataFrame(marks)):
        records, notes = read(rows, "ner")
        cleaned = task(task.Options()).clean(records, "train").records
        assert [record["tags"] for record in cleaned] == [["B-PER", "O"], ["O", "O"]]
        assert "1 spans (PER 1)" in notes[0]


def test_a_folder_of_the_same_name_as_the_data_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.ann").write_text("")
    (tmp_path / "data" / "a.txt").write_text("")
    assert read([{"text": "Ada runs", "label": [[0, 3, "PER"]]}], "ner")[0][0]["text"] == "Ada runs"


def test_columns_are_guessed_named_and_missed_as_in_files() -> None:
    rows = [{"Text": "a", "kind": "x"}]
    records, notes = read(rows, label="kind")
    assert records == [{"text": "a", "label": "x"}]
    assert notes == ["data: text is read from the column 'Text', taken for 'text'"]
    with pytest.raises(DataError, match=r"data:0: no column for label: looked for label, .* there is Text, kind"):
        read(rows)


@pytest.mark.parametrize(
    "data",
    [5, b"a", object(), np.zeros((2, 2)), pd.Series(["a"]), {"text": ["a"]}, torch.zeros(2), len, True],
    ids=lambda data: type(data).__name__,
)
def test_another_type_is_refused_with_those_that_are_taken(data: Any) -> None:
    with pytest.raises(UsageError, match=r"the data are a path, a list or an iterator of dicts, a pandas.*; found "):
        table_of(data)


@pytest.mark.parametrize("row", ["a text", 5, None, {"a"}])
def test_a_row_that_is_not_a_record_is_named_by_its_number(row: Any) -> None:
    with pytest.raises(AdaptError, match=r"data:1: a record is a dict with a value for each column; found "):
        table_of([ROWS[0], row])


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="two columns are named 'text'"):
        table_of(pd.DataFrame([["a", "b"]], columns=["text", "text"]))


def test_the_fingerprint_is_that_of_the_content_alone() -> None:
    prints = {table_of(FORMS[form](ROWS)).fingerprint for form in ("list", "generator", "pandas", "dataset", "arrow")}
    assert prints == {table_of([dict(reversed(row.items())) for row in ROWS], "other").fingerprint}
    assert table_of(ROWS[:-1]).fingerprint not in prints
    assert table_of(ROWS[::-1]).fingerprint not in prints
