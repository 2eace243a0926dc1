"""Members of one run, each with a method, options and a number of steps of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from adaptdock.engine.core.distributed import Ranks
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import Run, planned_run, train_plan
from adaptdock.engine.training.members.member_steps import JointBatches, MemberSteps
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.planning.run_plan import RunPlan, SharingOptions
from adaptdock.plugins.contracts import Backbone

ADAMW = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 2, "seed": 1}
SGD = {
    "learning_rate": 3e-3,
    "batch_size": 13,
    "epochs": 3,
    "seed": 2,
    "optimizer": "sgd",
    "backbone_dropout": True,
    "gradient_accumulation": 1,
}
COSINE = {
    "learning_rate": 3e-3,
    "batch_size": 7,
    "epochs": 3,
    "seed": 3,
    "scheduler": "cosine",
    "layer_decay": 0.9,
    "backbone_dropout": True,
}
MEMBERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a": ("lora", ADAMW, {"dropout": 0.3}),
    "b": ("bottleneck", SGD, {"dropout": 0.2}),
    "c": ("lora", COSINE, {"dropout": 0.3}),
}
EXACT = {
    "backbone_dropout": False,
    "store": "float32",
    "gradient_accumulation": 2,
    "max_grad_norm": 0.3,
    "head_start": "random",
}


def plans(backbone: Backbone, data: Path, **more: Any) -> dict[str, Plan]:
    source = Source(data=str(data))
    return {
        name: plan(backbone, "ner", method, source, {**EXACT, **options, **more}, of_method)
        for name, (method, options, of_method) in MEMBERS.items()
    }


def joint(made: dict[str, Plan], folder: Path) -> Run:
    return planned_run(RunPlan(made, SharingOptions(sharing="passes"), [1.0] * len(made)), folder)


def assert_same(one: Result, other: Result) -> None:
    assert one.adapter.tensors.keys() == other.adapter.tensors.keys()
    for name, tensor in one.adapter.tensors.items():
        torch.testing.assert_close(tensor, other.adapter.tensors[name], atol=1e-5, rtol=0, msg=name)


def test_a_member_ends_with_the_weights_that_it_gets_alone(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    made = plans(backbone, data, patience=0)
    results = joint(made, tmp_path / "joint")()
    for (name, own), result in zip(made.items(), results, strict=True):
        alone = train_plan(own, tmp_path / name)
        assert_same(result, alone)
        assert result.epochs == alone.epochs == own.options.epochs
        validations = [[entry["epoch"] for entry in kind.history if "eval_loss" in entry] for kind in (result, alone)]
        assert validations[0] == validations[1]
        assert result.adapter.card.training["best_epoch"] == alone.adapter.card.training["best_epoch"]


def test_a_member_that_stops_early_leaves_the_passes_and_the_others_go_on(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    made = plans(backbone, data, patience=0)
    made["a"].options = made["a"].options.model_copy(update={"learning_rate": 1e-9, "epochs": 6, "patience": 1})
    results = joint(made, tmp_path)()
    alone = train_plan(made["a"], tmp_path / "alone")
    assert [result.ending for result in results] == ["early", "complete", "complete"]
    assert (alone.ending, alone.epochs) == ("early", results[0].epochs)
    assert [result.epochs for result in results[1:]] == [3, 3]


def test_a_resumed_run_of_members_ends_with_the_same_weights(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step >= 7:
            raise KeyboardInterrupt

    straight = joint(plans(backbone, data, checkpoint_steps=2), tmp_path / "straight")()
    broken = joint(plans(backbone, data, checkpoint_steps=2), tmp_path / "broken")(interrupt)
    assert {result.ending for result in broken} == {"interrupted"}
    resumed = joint(plans(backbone, data, checkpoint_steps=2), tmp_path / "broken")(resume=True)
    for one, other in zip(straight, resumed, strict=True):
        assert all(torch.equal(tensor, other.adapter.tensors[name]) for name, tensor in one.adapter.tensors.items())


def test_the_batches_of_a_member_go_through_its_data_once_an_epoch(backbone: Backbone, data: Path) -> None:
    options = plan(backbone, "ner", "lora", Source(data=str(data)), {"epochs": 2, "batch_size": 2}).options
    options = options.model_copy(update={"gradient_accumulation": 2})
    steps = MemberSteps(options, lambda epoch: [epoch * 10 + place for place in range(7)])
    assert (steps.per_epoch, steps.count) == (2, 4)
    assert steps.batches(0) == [[0, 1], [2, 3]]
    assert steps.batches(3) == [[14, 15], [16]]
    assert steps.batches(4) == []
    assert [steps.ends_epoch(step) for step in range(1, 7)] == [False, True, False, True, False, False]
    assert [steps.epoch(step) for step in (1, 4, 9)] == pytest.approx([0.5, 2, 2])


def test_processes_have_the_units_of_one_and_equally_many_batches_in_a_step(backbone: Backbone, data: Path) -> None:
    options = plan(backbone, "ner", "lora", Source(data=str(data)), {"epochs": 1, "batch_size": 2}).options
    alone = MemberSteps(options.model_copy(update={"batch_size": 4}), lambda epoch: list(range(9)))
    for step in range(3):
        shares = [MemberSteps(options, lambda epoch: list(range(9))).batches(step, Ranks(n, n, 2, 2)) for n in range(2)]
        assert len(shares[0]) == len(shares[1])
        assert [[*first, *second] for first, second in zip(*shares, strict=True)] == alone.batches(step)
    assert shares == [[[8]], [[]]]


def test_a_process_without_a_unit_computes_one_that_adds_nothing(backbone: Backbone, data: Path, monkeypatch) -> None:
    options = plan(backbone, "ner", "lora", Source(data=str(data)), {"epochs": 1, "batch_size": 2}).options
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    passes = JointBatches([(MemberSteps(options, lambda epoch: list(range(5))), "abcde")], 1)
    assert [passes[number][:2] for number in range(len(passes))] == [
        (["a", "b"], [1.0]),
        (["c", "d"], [1.0]),
        (["e"], [1.0]),
        (["a"], [0.0]),
    ]
