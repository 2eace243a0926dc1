"""Shortfalls: untrained weights, a method that changes nothing, and an adapter no better than one answer to all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.heads.shortfall import compared, no_better, unmoved
from adaptdock.engine.training.loop.run import run_of, train_plan
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.train import train
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone


def question(answer: str | None = None) -> dict[str, Any]:
    answers = [] if answer is None else [{"text": answer, "start": 0}]
    return {"question": "What wrote Ada?", "context": "Bob ran. Ada wrote.", "answers": answers}


@pytest.fixture
def topics(tmp_path: Path) -> Source:
    rows = [{"text": f"{word} runs", "label": word} for _ in range(15) for word in ("ada", "bob")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(train=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "train.jsonl"))


def made(backbone: Backbone, source: Source, **options: Any) -> Plan:
    return plan(backbone, "classification", "lora", source, {"epochs": 1, "batch_size": 8, **options})


def run(backbone: Backbone, source: Source, folder: Path, **options: Any) -> Result:
    return train_plan(made(backbone, source, **options), folder)


def test_weights_that_have_not_moved_are_told_first_and_stand_in_report_and_card(
    backbone: Backbone, topics: Source, tmp_path: Path
) -> None:
    own = made(backbone, topics, learning_rate=1e-12)
    result = train_plan(own, tmp_path / "run")
    assert result.shortfall.startswith("This adapter is untrained")
    assert result.adapter.card.training["shortfall"] == result.shortfall
    verdict = result.report(tmp_path / "run", own)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["shortfall"] == result.shortfall
    assert "No sign of overfitting" not in " ".join(verdict)


def test_a_good_adapter_has_no_shortfall_and_its_card_has_the_baseline(
    backbone: Backbone, topics: Source, tmp_path: Path
) -> None:
    result = run(backbone, topics, tmp_path / "run", epochs=8, learning_rate=1e-2)
    assert result.shortfall == ""
    assert result.adapter.card.training["baseline"] == {"split": "validation", "accuracy": 100.0, "same_answer": 50.0}


def test_an_adapter_that_gives_one_answer_to_all_has_learnt_nothing_of_use(
    backbone: Backbone, dock: Dock, topics: Source, tmp_path: Path
) -> None:
    own = made(backbone, topics)
    members = run_of(own, tmp_path / "run").members
    (tensors,) = members.trainable().tensors()
    tensors["head.weight"] = torch.zeros_like(tensors["head.weight"])
    adapter = AdapterFile(members.tasks[0].card(1, {}), tensors)
    own.records["validation"] = own.records["validation"][:4]  # too few: training data is measured
    comparison = compared(own, dock, adapter, {"validation": {"accuracy": 50.0}})
    assert comparison == {"split": "train", "accuracy": 50.0, "same_answer": 50.0}
    assert "the same answer to every input reaches 50.00" in no_better(own, comparison)
    assert no_better(own, {**comparison, "accuracy": 50.01}) == ""


def test_a_method_whose_output_is_that_of_its_start_is_named_though_other_weights_have_moved(
    backbone: Backbone, dock: Dock, topics: Source, tmp_path: Path
) -> None:
    own = made(backbone, topics)
    members = run_of(own, tmp_path / "run").members
    (start,) = members.trainable().tensors()
    head = {name: tensor + 1 for name, tensor in start.items() if name.startswith("head.")}
    a_moved = {name: tensor + 1 for name, tensor in start.items() if name.endswith("lora_a")}  # times B, which is zero
    b_moved = {name: tensor + 1 for name, tensor in start.items() if name.endswith("lora_b")}

    def told(changes: dict[str, torch.Tensor]) -> str:
        return unmoved(own, dock, AdapterFile(members.tasks[0].card(1, {}), {**start, **changes}), start)

    assert told({}).startswith("This adapter is untrained")
    assert told(head).startswith("Only the head of this adapter is trained: lora")
    assert told({**head, **a_moved}).startswith("Only the head of this adapter is trained: lora")
    assert told({**head, **b_moved}) == told(b_moved) == ""


@pytest.mark.parametrize(
    ("task", "options", "records", "metric", "value"),
    [
        ("classification", {"labels": ("a", "b")}, [{"label": label} for label in "aaab"], "accuracy", 75.0),
        (
            "classification",
            {"labels": ("a", "b"), "multi_label": True},
            [{"label": label} for label in (["a", "b"], ["a", "b"], [], ["a"])],
            "accuracy",
            50.0,
        ),
        ("ner", {"labels": ("PER",)}, [{"tags": ["B-PER", "O"]}], "f1", 0.0),
        ("pos", {"labels": ("X", "Y")}, [{"tags": ["X", "Y", "X"]}, {"tags": ["X"]}], "accuracy", 75.0),
        ("regression", {"mean": 2.0}, [{"label": 1.0}, {"label": 3.0}], "pearson", 0.0),
        ("qa", {}, [question(), question("Ada wrote")], "f1", 50.0),
        ("qa", {}, [question("Ada wrote"), question("wrote")], "f1", 83.33),
    ],
)
def test_a_task_knows_what_the_same_answer_to_every_input_reaches(
    task: str, options: dict[str, Any], records: list[dict[str, Any]], metric: str, value: float
) -> None:
    baseline = make_task(task, options).baseline(records)
    assert baseline is not None
    assert baseline[metric] == value


def test_the_sentence_most_like_the_question_is_named_where_an_adapter_is_no_better(
    backbone: Backbone, tmp_path: Path
) -> None:
    rows = [{"question": "What did Ada write?", "context": "Bob ran. Ada did write.", "answers": ["Ada did write."]}]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps({**row, "title": str(n)}) + "\n" for n, row in enumerate(rows * 24)))
    result = train("qa", "lora", backbone, {"train": str(file), "test": str(file)}, tmp_path / "run", epochs=1)
    assert result.shortfall.startswith("This adapter has learnt nothing of use: its f1 on the test data is ")
    assert result.shortfall.endswith(", and no answer, or the sentence most like the question, reaches 100.00.")


@pytest.mark.parametrize("task", ["clm", "embedding"])
def test_a_task_without_such_an_answer_has_none(task: str) -> None:
    assert make_task(task, {}).baseline([]) is None


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_sixteen_texts_train_an_adapter(backbone: Backbone, tmp_path: Path, seed: int) -> None:
    rows = [{"text": f"{word} {more}", "label": word} for word in ("ada", "bob") for more in "abcdefgh"]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "run"
    result = train("sentiment", "lora", backbone, str(tmp_path / "data.jsonl"), folder, seed=seed, head_start="random")
    assert result.shortfall == ""
    assert result.adapter.card.training["baseline"] == {"split": "train", "accuracy": 100.0, "same_answer": 50.0}
    assert all(tensor.any() for name, tensor in result.adapter.tensors.items() if name.endswith("lora_b"))
