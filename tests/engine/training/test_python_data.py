"""Training on objects of a Python program, with progress, and its continuation with the same data."""

from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from adaptdock.engine.data.objects import table_of
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.train import train
from adaptdock.errors import AdaptError, DataError, UsageError
from adaptdock.plugins.contracts import Backbone

SENTENCES = [
    {"tokens": ["ada", "met", "bob"], "tags": ["B-PER", "O", "B-PER"]},
    {"tokens": ["the", "river", "runs"], "tags": ["O", "O", "O"]},
    {"tokens": ["bob", "sings", "loud"], "tags": ["B-PER", "O", "O"]},
] * 6
FEW = {"epochs": 1, "batch_size": 8, "hold_out": "always"}


def trained(backbone: Backbone, data: Any, folder: Path, **options: Any) -> Any:
    return train("ner", backbone=backbone, data=data, folder=folder, **{**FEW, **options})


def test_data_of_every_kind_train_the_same_adapter(backbone: Backbone, tmp_path: Path) -> None:
    frame = pd.DataFrame(SENTENCES)
    (tmp_path / "train.jsonl").write_text(frame.to_json(orient="records", lines=True))
    forms = {
        "file": tmp_path / "train.jsonl",
        "list": SENTENCES,
        "generator": (row for row in SENTENCES),
        "pandas": frame,
        "dataset": datasets.Dataset.from_pandas(frame),
    }
    results = {form: trained(backbone, data, tmp_path / form) for form, data in forms.items()}
    tensors = results["file"].adapter.tensors
    for result in results.values():
        assert all((value == tensors[name]).all() for name, value in result.adapter.tensors.items())
    described = results["list"].adapter.card.training["data"]
    assert described.startswith("list of 18 rows (tokens, tags), sha256 ")
    assert results["pandas"].adapter.card.training["data"] == described.replace("list", "pandas.DataFrame")
    assert str(tmp_path) not in results["list"].adapter.card.model_dump_json()


def test_a_dict_of_splits_may_mix_files_and_objects(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    splits = {"train": SENTENCES, "dev": pd.DataFrame(SENTENCES[:3]), "test": data / "test.conll"}
    card = trained(backbone, splits, tmp_path / "mixed").adapter.card
    assert card.training["splits"] == {"train": 18, "validation": 3, "test": 20}
    assert card.training["data"].endswith("test.conll")
    table = datasets.Dataset.from_list(SENTENCES)
    together = datasets.DatasetDict({"train": table, "validation": table.select(range(3))})
    assert trained(backbone, together, tmp_path / "both").adapter.card.training["splits"] == {
        "train": 18,
        "validation": 3,
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": ["a"], "label": ["b"]}, "has the splits train, validation, test as keys; found 'text'"),
        ({"test": SENTENCES}, "have no 'train' split; found 'test'"),
        ({"train": SENTENCES, "val": SENTENCES, "dev": SENTENCES}, "name the validation split twice: 'val' and 'dev'"),
        ({"train": 5}, "the data are a path, a list or an iterator of dicts, .*; found int: 5"),
        ([], "the train split is empty"),
        ({"train": SENTENCES, "test": iter(())}, "the test split is empty"),
        ([{"tokens": ["a"]}], "data:0: no column for tags"),
    ],
)
def test_data_that_cannot_be_used_are_refused_with_the_reason(
    backbone: Backbone, tmp_path: Path, data: Any, message: str
) -> None:
    with pytest.raises(AdaptError, match=message):
        trained(backbone, data, tmp_path / "run")


def test_columns_and_progress_are_given_as_arguments(backbone: Backbone, tmp_path: Path) -> None:
    seen: list[Progress] = []
    rows = [{"words": row["tokens"], "kinds": row["tags"]} for row in SENTENCES]
    named = {"tokens": "words", "tags": "kinds"}
    trained(backbone, rows, tmp_path / "a", columns=named, progress=seen.append)
    pairs = [(row["tags"], row["tokens"]) for row in SENTENCES]
    trained(backbone, pairs, tmp_path / "c", columns={"tokens": 1, "tags": 0})
    assert any(report.loss is not None for report in seen)
    assert seen[-1].metrics is not None
    with pytest.raises(DataError, match="no column for tokens: looked for words, there is tokens, tags"):
        trained(backbone, Source(data=table_of(SENTENCES)), tmp_path / "b", columns=named)


def test_a_run_continues_with_the_same_content_in_any_form_and_refuses_another(
    backbone: Backbone, tmp_path: Path
) -> None:
    def interrupt(report: Progress) -> None:
        if report.metrics is not None:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    options = {"epochs": 2, "patience": 0}
    halted = trained(backbone, SENTENCES, folder, progress=interrupt, **options)
    assert halted.ending == "interrupted"
    with pytest.raises(UsageError, match="was begun with other data"):
        trained(backbone, SENTENCES[::-1], folder, resume=True, **options)
    continued = trained(backbone, pd.DataFrame(SENTENCES), folder, resume=True, **options)
    assert continued.ending == "complete"
    assert continued.epochs == 2
    with pytest.raises(UsageError, match="resume=True needs the folder of a run that has begun"):
        trained(backbone, SENTENCES, tmp_path / "none", resume=True)
