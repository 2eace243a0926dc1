"""Data in files: a run on it has the plan that it has on data in memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.data.checks import check
from adaptdock.engine.data.sources import Source
from adaptdock.engine.evaluation import measurement
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit import stored
from adaptdock.plugins.toolkit.stored import StoredSequence

WORDS = ("rain", "river", "market", "Ada", "London", "paper", "winter", "music")


def classes(number: int) -> dict[str, Any]:
    words = " ".join(WORDS[(number % 90 + place) % 8] for place in range(1 + number % 5))
    return {"text": f"{words} {number % 90}", "label": ("praise", "2.0", "complaint")[number % 3], "id": number % 50}


def names(number: int) -> dict[str, Any]:
    words = [WORDS[(number + place) % 8] for place in range(2 + number % 6)]
    tags = ["B-PER" if word == "Ada" else "B-LOC" if word == "London" else "O" for word in words]
    return {"tokens": words, "tags": tags, "document": f"d{number % 20}"}


def answers(number: int) -> dict[str, Any]:
    context = f"In {WORDS[number % 8]} there is a {WORDS[(number + 3) % 8]} number {number // 4}."
    return {"id": str(number), "context": context, "question": "What is there?", "answer": WORDS[(number + 3) % 8]}


CASES = {"classification": classes, "ner": names, "pos": names, "qa": answers}


def planned(backbone: Backbone, task: str, folder: Path) -> Plan:
    rows = [CASES[task](number) for number in range(120)]
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return plan(backbone, task, "lora", Source(data=str(folder)), {"epochs": 1, "hold_out": "always"})


def content(units: Sequence[Any]) -> list[Any]:
    return [[(feature.inputs, feature.labels, feature.cut, feature.row_inputs) for feature in unit] for unit in units]


@pytest.mark.parametrize("task", CASES)
def test_a_plan_of_data_in_files_is_that_of_data_in_memory(
    backbone: Backbone, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = planned(backbone, task, tmp_path)
    monkeypatch.setattr(stored, "IN_MEMORY", 0)
    in_files = planned(backbone, task, tmp_path)
    assert isinstance(in_files.units, StoredSequence)
    assert {split: list(records) for split, records in in_files.records.items()} == in_memory.records
    assert content(in_files.units) == content(in_memory.units)
    assert in_files.notes == in_memory.notes
    assert in_files.identity() == in_memory.identity()
    assert in_files.summary() == in_memory.summary()
    assert check(in_files.records, in_files.task) == check(in_memory.records, in_memory.task)


def test_a_run_on_data_in_files_has_the_metrics_of_one_on_data_in_memory(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [train_plan(planned(backbone, "classification", tmp_path / "data"), tmp_path / "memory")]
    monkeypatch.setattr(stored, "IN_MEMORY", 0)
    monkeypatch.setattr(measurement, "AT_ONCE", 5)
    plan_in_files = planned(backbone, "classification", tmp_path / "data")
    results.append(train_plan(plan_in_files, tmp_path / "files"))
    first, second = (result.adapter for result in results)
    assert first.card.metrics["validation"] == second.card.metrics["validation"]
    assert all(first.tensors[name].equal(second.tensors[name]) for name in first.tensors)
    assert results[1].report(tmp_path / "files", plan_in_files)
    assert "records repeat the text of another" in (tmp_path / "files" / "report.html").read_text()
