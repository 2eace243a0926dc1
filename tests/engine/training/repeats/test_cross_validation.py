"""Folds: how the training data is divided, and what the runs on them tell."""

import json
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.repeats.cross_validation import cross_validate, divide, summary
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Backbone


def texts(folder: Path, counts: dict[str, int], **more: int) -> Source:
    """Write texts with labels; each other split as many of them."""
    lines = [{"text": f"{label} text {number}", "label": label} for label in counts for number in range(counts[label])]
    files = {"train": lines, **{split: lines[-size:] for split, size in more.items()}}
    for split, rows in files.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(**{split: str(folder / f"{split}.jsonl") for split in files})


def made(backbone: Backbone, task: str, source: Source, **options: Any) -> Plan:
    return plan(backbone, task, "lora", source, {"epochs": 1, **options})


def held(plans: list[Plan], field: str = "text") -> list[list[str]]:
    return [[record[field] for record in own.records["validation"]] for own in plans]


def test_every_record_is_held_out_once_and_never_trained_on_then(backbone: Backbone, tmp_path: Path) -> None:
    source = texts(tmp_path, {"a": 20, "b": 10}, test=3)
    plans = divide(made(backbone, "classification", source), 5)
    everything = sorted(f"{label} text {number}" for label, size in (("a", 20), ("b", 10)) for number in range(size))
    assert sorted(text for fold in held(plans) for text in fold) == everything
    for own in plans:
        assert set(own.records) == {"train", "validation"}
        trained = {record["text"] for record in own.records["train"]}
        assert trained == set(everything) - {record["text"] for record in own.records["validation"]}
        assert len(own.units) == len(trained)
        assert Counter(record["label"] for record in own.records["validation"]) == {"a": 4, "b": 2}


def test_an_altered_copy_is_never_trained_on_while_its_record_is_held_out(backbone: Backbone, tmp_path: Path) -> None:
    whole = made(backbone, "classification", texts(tmp_path, {"a": 12, "b": 12}, validation=4), augment=("case",))
    assert len(whole.records["train"]) == 48
    for own in divide(whole, 3):
        trained = Counter(record["text"].lower() for record in own.records["train"])
        assert set(trained.values()) == {2}
        assert not trained.keys() & {record["text"] for record in own.records["validation"]}


def test_folds_send_nothing_to_the_trackers_of_the_run(backbone: Backbone, tmp_path: Path) -> None:
    whole = made(backbone, "classification", texts(tmp_path, {"a": 8, "b": 8}))
    options = whole.options.model_copy(update={"report_to": ("wandb",)})
    assert [own.options.report_to for own in divide(replace(whole, options=options), 2)] == [(), ()]


def test_duplicates_are_in_one_fold(backbone: Backbone, tmp_path: Path) -> None:
    rows = [{"text": f"{label} text {number % 5}", "label": label} for label in "ab" for number in range(15)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for own in divide(made(backbone, "classification", Source(train=str(tmp_path / "train.jsonl"))), 4):
        trained = {record["text"] for record in own.records["train"]}
        assert trained
        assert not trained & {record["text"] for record in own.records["validation"]}


def test_validation_data_that_was_given_stays_out(backbone: Backbone, tmp_path: Path) -> None:
    source = texts(tmp_path, {"a": 8, "b": 8}, validation=4)
    plans = divide(made(backbone, "classification", source), 4)
    assert sum(map(len, held(plans))) == 16


def test_a_label_with_fewer_records_than_folds_does_not_hinder(backbone: Backbone, tmp_path: Path) -> None:
    plans = divide(made(backbone, "classification", texts(tmp_path, {"a": 12, "rare": 2}, validation=2)), 4)
    assert sum("rare text 0" in fold for fold in held(plans)) == 1


def test_what_belongs_together_is_held_out_together(backbone: Backbone, tmp_path: Path) -> None:
    rows = [{"text": f"anchor {number // 3}", "positive": f"like {number}"} for number in range(60)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plans = divide(made(backbone, "embedding", Source(train=str(tmp_path / "train.jsonl"))), 4)
    folds = [set(fold) for fold in held(plans)]
    assert sum(map(len, folds)) == len(set().union(*folds)) == 20


def test_the_seed_chooses_the_folds(backbone: Backbone, data: Path) -> None:
    one, same, other = (
        held(divide(made(backbone, "ner", Source(data=str(data)), seed=seed), 3), "where") for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_more_folds_than_records_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    found = made(backbone, "classification", texts(tmp_path, {"a": 3, "b": 3}, validation=2))
    with pytest.raises(DataError, match="7 folds of 6 training records"):
        divide(found, 7)


def test_the_folds_are_trained_and_their_mean_and_deviation_written(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    heard: list[int] = []

    def progress(number: int) -> Any:
        return lambda now: heard.append(number)

    found = cross_validate(made(backbone, "ner", Source(data=str(data)), learning_rate=1e-2), 3, tmp_path, progress)
    assert set(heard) == {1, 2, 3}
    scores = [fold.metrics["f1"] for fold in found]
    written = json.loads((tmp_path / "folds.json").read_text())
    assert written["mean"]["f1"] == pytest.approx(statistics.mean(scores), abs=1e-4)
    assert written["deviation"]["f1"] == pytest.approx(statistics.stdev(scores), abs=1e-4)
    assert written["mean"] == summary(found)["mean"]
    assert [fold["metrics"]["f1"] for fold in written["folds"]] == scores
    assert all((tmp_path / f"fold-{number}" / "best.safetensors").exists() for number in (1, 2, 3))


def test_ctrl_c_in_a_fold_ends_them_all(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    def progress(number: int) -> Any:
        def interrupt(now: Progress) -> None:
            raise KeyboardInterrupt

        return interrupt if number == 2 else None

    with pytest.raises(KeyboardInterrupt):
        cross_validate(made(backbone, "ner", Source(data=str(data))), 3, tmp_path, progress)
    assert not (tmp_path / "folds.json").exists()
