"""Self-training: what is labelled surely is trained on, nothing else is; rounds, the best of them, resuming."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.sources import Reader, Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import Run, train_plan
from adaptdock.engine.training.members.members import Members
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.repeats import self_training
from adaptdock.engine.training.repeats.self_training import SelfTraining, pseudo_labelled
from adaptdock.engine.training.train import train
from adaptdock.errors import DataError, UsageError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone, Feature, PseudoLabelling, Record, Task

TEXTS = ["ada runs in the rain", "bob sings", "eve and joe in the rain", "the rain sings"]


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS * 5) + "\n")
    return path


def make_plan(backbone: Backbone, data: Path, unlabelled: Path, **options: Any) -> Plan:
    given = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8, "unlabelled": str(unlabelled), **options}
    return plan(backbone, "ner", "lora", Source(data=str(data)), given)


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[list[Record]]:
    """The training records of each run that is begun."""
    seen: list[list[Record]] = []
    begin = Run.__call__

    def run(self: Run, *arguments: Any, **named: Any) -> list[Result]:
        seen.append(self.members.tasks[0].plan.records["train"])
        return begin(self, *arguments, **named)

    monkeypatch.setattr(Run, "__call__", run)
    return seen


def test_texts_that_are_labelled_surely_enter_the_training_of_the_next_round(
    backbone: Backbone, data: Path, unlabelled: Path, tmp_path: Path, trained_on: list[list[Record]]
) -> None:
    made = make_plan(backbone, data, unlabelled, confidence=0.0, self_training_rounds=2)
    run = SelfTraining(made, tmp_path / "run")
    result = run()
    assert [len(records) for records in trained_on] == [60, 80, 80]
    added = trained_on[1][60:]
    assert [record["text"] for record in added] == TEXTS * 5
    assert all(len(record["tags"]) == len(record["tokens"]) for record in added)
    assert [(one.number, one.added) for one in run.rounds] == [(0, 0), (1, 20), (2, 20)]
    assert run.rounds[1].labels["sentences"] == 20
    told = result.adapter.card.training["self_training"]
    assert [one["added"] for one in told["rounds"]] == [0, 20, 20]
    assert result.adapter.card.training["options"]["unlabelled"] == "texts.txt"
    scores = [one["metrics"]["validation"]["f1"] for one in told["rounds"]]
    assert told["best"] == scores.index(max(scores))
    assert read_file(tmp_path / "run" / "best.safetensors").card == result.adapter.card
    for number in range(3):
        folder = tmp_path / "run" / f"round-{number}"
        assert {"best.safetensors", "metrics.json", "log.jsonl", "curves.png"} <= {p.name for p in folder.iterdir()}
        assert read_file(folder / "best.safetensors").card.metrics == told["rounds"][number]["metrics"]
    assert json.loads((tmp_path / "run/round-1/metrics.json").read_text())["plan"]["added"] == {"self-training": 20}


@pytest.mark.parametrize(
    ("rounds", "few", "best"),
    [
        ([(50, 0.9), (50, 0.7), (50, 0.8)], False, 1),
        ([(60, 0.9), (50, 0.1)], False, 0),
        ([(50, 0.7), (50, 0.7)], False, 0),
        ([(60, 0.1), (50, 0.9)], True, 1),
        ([(60, 0.1), None], True, 0),
        ([None], False, 0),
    ],
)
def test_the_best_round_is_that_of_the_metric_then_the_loss_and_of_few_records_the_last(
    backbone: Backbone, data: Path, unlabelled: Path, tmp_path: Path, rounds: list, few: bool, best: int
) -> None:
    made = make_plan(backbone, data, unlabelled)
    if few:
        made.records["validation"] = made.records["validation"][:1]
    histories = [[] if one is None else [{"eval_f1": one[0], "eval_loss": one[1], "epoch": 1}] for one in rounds]
    results = [Result(None, Path(), 0, 1, 0, history) for history in histories]  # type: ignore[arg-type]
    assert SelfTraining(made, tmp_path)._best(results) == best


def test_with_the_highest_confidence_no_text_is_added_and_the_rounds_end(
    backbone: Backbone, data: Path, unlabelled: Path, tmp_path: Path, trained_on: list[list[Record]]
) -> None:
    run = SelfTraining(make_plan(backbone, data, unlabelled, confidence=1.0, self_training_rounds=3), tmp_path)
    result = run()
    assert [len(records) for records in trained_on] == [60]
    assert [(one.number, one.added) for one in run.rounds] == [(0, 0), (1, 0)]
    assert result.ending == "complete"
    plain = train_plan(
        plan(backbone, "ner", "lora", Source(data=str(data)), {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8}),
        tmp_path / "plain",
    )
    assert all(torch.equal(tensor, plain.adapter.tensors[name]) for name, tensor in result.adapter.tensors.items())


def test_each_round_starts_from_the_start_weights(
    backbone: Backbone, data: Path, unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[dict[str, torch.Tensor]] = []
    trainable = Members.trainable

    def started(self: Members) -> Any:
        made = trainable(self)
        starts.extend(made.tensors())
        return made

    monkeypatch.setattr(Members, "trainable", started)
    made = make_plan(backbone, data, unlabelled, confidence=0.0, epochs=1, head_start="random")
    SelfTraining(made, tmp_path)()
    assert len(starts) == 2
    assert all(torch.equal(tensor, starts[1][name]) for name, tensor in starts[0].items())


def test_the_labels_are_the_adapters_and_the_confidence_divides_them(
    backbone: Backbone, data: Path, unlabelled: Path, tmp_path: Path
) -> None:
    made = make_plan(backbone, data, unlabelled)
    adapter = train_plan(replace(made, unlabelled=[]), tmp_path).adapter
    dock = Dock(backbone)
    everything = pseudo_labelled(dock, adapter, made.unlabelled, 0.0, 8)
    name = dock.dock(adapter, "mine")
    predicted = dock.predict(name, [{"tokens": record["tokens"]} for record in everything])
    dock.close()
    assert [record["tags"] for record in everything] == [prediction["tags"] for prediction in predicted]
    counts = [len(pseudo_labelled(dock, adapter, made.unlabelled, sure, 8)) for sure in (0.0, 0.5, 0.8, 0.95, 1.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 20
    assert counts[-1] == 0


class Stopped(Exception):
    """What ends a run in a test, as a kill would."""


def test_a_run_that_was_killed_goes_on_after_the_rounds_that_came_to_their_end(
    backbone: Backbone, data: Path, unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_plan(backbone, data, unlabelled, confidence=0.0, epochs=1)
    whole = SelfTraining(made, tmp_path / "whole")()

    def killed(*_: Any) -> Any:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(self_training, "pseudo_labelled", killed)
        with pytest.raises(Stopped):
            SelfTraining(made, tmp_path / "run")()
    begun = (tmp_path / "run/round-0/best.safetensors").stat().st_mtime_ns
    again = SelfTraining(made, tmp_path / "run")
    result = again(resume=True)
    assert (tmp_path / "run/round-0/best.safetensors").stat().st_mtime_ns == begun
    assert [one.added for one in again.rounds] == [0, 20]
    assert all(torch.equal(tensor, whole.adapter.tensors[name]) for name, tensor in result.adapter.tensors.items())
    unlabelled.write_text("other texts\n")
    with pytest.raises(UsageError, match="begun with other unlabelled texts"):
        SelfTraining(make_plan(backbone, data, unlabelled, confidence=0.0, epochs=1), tmp_path / "run")(resume=True)


def test_ctrl_c_while_texts_are_labelled_keeps_the_best_adapter(
    backbone: Backbone, data: Path, unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(self_training, "pseudo_labelled", interrupted)
    result = SelfTraining(make_plan(backbone, data, unlabelled, epochs=1), tmp_path)()
    assert result.ending == "interrupted"
    assert read_file(tmp_path / "best.safetensors").card.training["ending"] == "interrupted"


def test_a_new_run_in_the_folder_of_an_old_one_leaves_none_of_its_rounds(
    backbone: Backbone, data: Path, unlabelled: Path, tmp_path: Path
) -> None:
    old = tmp_path / "round-7"
    old.mkdir()
    SelfTraining(make_plan(backbone, data, unlabelled, confidence=1.0, epochs=1), tmp_path)()
    assert not old.exists()


def test_training_in_python_takes_texts_without_labels(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("my card is lost\nwhere is my money\n")
    result = train(
        "classification",
        "lora",
        backbone,
        None,
        tmp_path / "run",
        epochs=1,
        unlabelled=str(tmp_path / "texts.txt"),
        confidence=0,
    )
    told = result.adapter.card.training["self_training"]["rounds"][1]
    assert told["added"] == 2
    assert sum(told["labels"]["by label"].values()) == 2


# ------------------------------------------------------------------------------------- tasks and data


def logits(*rows: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(row).log() for row in rows]


def test_a_class_is_as_sure_as_its_probability_and_several_labels_as_the_least_sure() -> None:
    task = make_task("classification", {"labels": ["a", "b"]})
    record, sure = task.pseudo({"text": "x"}, [], logits([0.2, 0.8]))  # type: ignore[misc]
    assert record == {"text": "x", "label": "b"}
    assert sure == pytest.approx(0.8)
    several = make_task("classification", {"labels": ["a", "b", "c"], "multi_label": True})
    scores = [torch.tensor([0.9, 0.3, 0.6]).logit()]
    record, sure = several.pseudo({"text": "x"}, [], scores)  # type: ignore[misc]
    assert record["label"] == ["a", "c"]
    assert sure == pytest.approx(0.6)


@pytest.mark.parametrize(("name", "labels"), [("ner", ["X"]), ("chunking", ["X"]), ("pos", ["A", "B", "C"])])
def test_a_sentence_is_as_sure_as_its_least_sure_word(name: str, labels: list[str]) -> None:
    task = make_task(name, {"labels": labels})
    feature = Feature({"input_ids": [0, 0]}, alignment=[(0, 0), (1, 1)])
    found = [torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.04, 0.06]]).log()]
    record, sure = task.pseudo({"tokens": ["x", "y"]}, [feature], found)  # type: ignore[misc]
    assert record["tags"] == (["A", "B", "C"] if name == "pos" else ["O", "B-X", "I-X"])[1::-1]
    assert sure == pytest.approx(0.7)


def test_a_task_without_pseudo_labels_refuses_texts_without_labels(backbone: Backbone, unlabelled: Path) -> None:
    for name in ("regression", "embedding"):
        with pytest.raises(UsageError, match=f"the task '{name}' has no pseudo-labels"):
            plan(backbone, name, "lora", Source(), {"unlabelled": str(unlabelled)})
        assert not isinstance(make_task(name, {}), PseudoLabelling)


def read(task: Task, path: Path, **source: Any) -> list[Record]:
    return Reader(type(task), Source(**source)).unlabelled(str(path), task)


def test_files_without_labels_are_read_by_their_suffix(tmp_path: Path) -> None:
    ner, pair = make_task("ner", {"labels": ["X"]}), make_task("pair", {"labels": ["a", "b"]})
    (tmp_path / "a.conll").write_text("ada\nruns\n\nbob\n")
    (tmp_path / "a.jsonl").write_text('{"words": ["ada", "runs"]}\n{"text": "bob sings"}\n')
    (tmp_path / "a.csv").write_text("premise,hypothesis\nit rains,it is wet\n")
    assert [record["tokens"] for record in read(ner, tmp_path / "a.conll", format="conllu")] == [
        ["ada", "runs"],
        ["bob"],
    ]
    assert [record["tokens"] for record in read(ner, tmp_path / "a.jsonl")] == [["ada", "runs"], ["bob", "sings"]]
    (record,) = read(pair, tmp_path / "a.csv")
    assert (record["text"], record["second"]) == ("it rains", "it is wet")
    (tmp_path / "b.csv").write_text("wet,dry\nit rains,it is wet\n")
    (record,) = read(pair, tmp_path / "b.csv", columns={"text": "dry", "second": "wet"})
    assert (record["text"], record["second"]) == ("it is wet", "it rains")


def test_files_that_cannot_be_read_are_named_with_the_line(tmp_path: Path) -> None:
    pair = make_task("pair", {"labels": ["a", "b"]})
    with pytest.raises(DataError, match=r"none.txt: there is no such file \(--unlabelled\)"):
        read(pair, tmp_path / "none.txt")
    (tmp_path / "a.txt").write_text("only one text\n")
    with pytest.raises(DataError, match=r"a.txt:1: .* second has to be a text"):
        read(pair, tmp_path / "a.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="there is no text in it"):
        read(pair, tmp_path / "empty.txt")
