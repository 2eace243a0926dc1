"""Trainings as members of one pass: one that is ended or fails leaves, a killed pass is resumed with the same bits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.repeats.joint_run import EndedEarly, Training, train_together
from adaptdock.errors import AdaptError
from adaptdock.plugins.contracts import Backbone


class Killed(BaseException):
    """What a test raises in place of a signal."""


def trainings(backbone: Backbone, data: Path, folder: Path, rates: Mapping[str, float]) -> dict[str, Training]:
    common = {"epochs": 3, "batch_size": 8, "patience": 0, "store": "float32", "head_start": "random"}
    return {
        label: Training(plan(backbone, "ner", "lora", Source(data=str(data)), {**common, **options}), folder / label)
        for label, options in ((label, {"learning_rate": rate, "warmup": 0}) for label, rate in rates.items())
    }


def assert_as_alone(outcome: Result | AdaptError, planned: Plan, folder: Path) -> None:
    assert isinstance(outcome, Result)
    alone = train_plan(planned, folder)
    assert outcome.epochs == alone.epochs
    for name, tensor in alone.adapter.tensors.items():
        torch.testing.assert_close(outcome.adapter.tensors[name], tensor, atol=1e-5, rtol=0, msg=name)


def test_a_training_that_the_judge_ends_leaves_the_pass_and_changes_no_other(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    heard: list[tuple[str, float]] = []

    def judge(validated: Mapping[str, Progress]) -> list[str]:
        heard.extend((label, progress.epoch) for label, progress in validated.items())
        return [label for label, progress in validated.items() if label == "b" and progress.epoch == 2]

    entries = trainings(backbone, data, tmp_path, {"a": 1e-2, "b": 5e-3})
    outcomes = train_together(entries, tmp_path / "pass", judge)
    assert isinstance(outcomes["b"], EndedEarly)
    assert_as_alone(outcomes["a"], entries["a"].plan, tmp_path / "alone")
    assert heard == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]
    assert not (tmp_path / "pass").exists()


def test_a_training_whose_loss_is_no_number_leaves_the_pass_and_changes_no_other(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    entries = trainings(backbone, data, tmp_path, {"a": 1e-2, "b": 1e38})
    outcomes = train_together(entries, tmp_path / "pass")
    assert "the loss became nan in step 2; a smaller learning rate than 1e+38" in str(outcomes["b"])
    assert_as_alone(outcomes["a"], entries["a"].plan, tmp_path / "alone")


@pytest.mark.parametrize("at", [2, 3])
def test_a_killed_pass_is_resumed_with_the_same_bits(backbone: Backbone, data: Path, tmp_path: Path, at: int) -> None:
    rates = {"a": 1e-2, "b": 5e-3, "c": 1e38}

    def run(folder: Path, killed_in: int = 0, resume: bool = False) -> dict[str, Any]:
        def judge(validated: Mapping[str, Progress]) -> list[str]:
            epochs = {progress.epoch for progress in validated.values()}
            if killed_in in epochs:
                raise Killed
            return ["b"] if 2 in epochs else []

        return train_together(trainings(backbone, data, folder, rates), folder / "pass", judge, resume)

    straight = run(tmp_path / "straight")
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed_in=at)
    resumed = run(tmp_path / "killed", resume=True)
    assert isinstance(resumed["b"], EndedEarly)
    assert str(resumed["c"]) == str(straight["c"])
    for name, tensor in straight["a"].adapter.tensors.items():
        assert torch.equal(resumed["a"].adapter.tensors[name], tensor), name


EIGHT = ("lora", "bottleneck", "prefix", "ia3", "dora", "bitfit", "prompt", "lokr")


def test_a_killed_pass_of_eight_members_is_resumed_with_the_same_bits(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    """The members differ in method, seed, rate and batch size; the process ends between two checkpoints."""

    def run(folder: Path, last_step: int = 0, resume: bool = False) -> dict[str, Any]:
        def heard(progress: Progress) -> None:
            if last_step and progress.step >= last_step:
                raise Killed

        entries = {}
        for number, method in enumerate(EIGHT):
            options = {"epochs": 1, "batch_size": 10 + number, "seed": number, "learning_rate": 1e-3 * (number + 1)}
            fixed = {"store": "float32", "head_start": "random", "probe_data": "none", "checkpoint_steps": 2}
            entries[method] = Training(
                plan(backbone, "ner", method, Source(data=str(data)), {**options, **fixed}), folder / method
            )
        return train_together(entries, folder / "pass", resume=resume, progress=heard)

    straight = run(tmp_path / "straight")
    with pytest.raises(Killed):
        run(tmp_path / "killed", last_step=3)
    assert (tmp_path / "killed/pass/checkpoints/checkpoint-2").is_dir()
    resumed = run(tmp_path / "killed", resume=True)
    for method in EIGHT:
        for name, tensor in straight[method].adapter.tensors.items():
            assert torch.equal(resumed[method].adapter.tensors[name], tensor), f"{method}: {name}"
