"""Schedules: the learning rate of each step, of each layer, and which layers wait."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import get_scheduler

from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop import trainer as trainers
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.loop.schedules import Distances, rate, slanted_triangular
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone

RATES = {"adamw": 1e-2, "adamw_8bit": 1e-2, "adafactor": 1e-2, "sgd": 1.0, "lion": 1e-3}
PARTS = {"head.": 0, "layers.1.": 1, "layers.0.": 2}
STEPS = 8
"""Of an epoch: 60 sentences, 8 in a batch."""


def made(backbone: Backbone, data: Path, folder: Path, method: str = "lora", **options: Any) -> Callable[..., Result]:
    given = {"learning_rate": 1e-2, "epochs": 3, "batch_size": 8, "store": "float32", "patience": 0, **options}
    own = {"lora": {"dropout": 0.1}}.get(method, {})
    return partial(train_plan, plan(backbone, "ner", method, Source(data=str(data)), given, own), folder, None)


class Traced(trainers.AdapterTrainer):
    """Keeps the weights and the learning rates of each step."""

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        if not hasattr(self, "weights"):
            self.weights: list[Mapping[str, Tensor]] = []
            self.rates: list[list[float]] = []
        self.weights.append(self.model.tensors()[0])
        self.rates.append([group["lr"] for group in self.optimizer.param_groups])
        return super().training_step(*arguments, **named)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Traced]:
    """The trainers of the runs in a test."""
    found: list[Traced] = []

    def make(*arguments: Any, **named: Any) -> Traced:
        found.append(Traced(*arguments, **named))
        return found[-1]

    monkeypatch.setattr(trainers, "AdapterTrainer", make)
    return found


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Return the parts of which some weight is another one."""
    return {part for part in PARTS for name in before if name.startswith(part) and not before[name].equal(after[name])}


# --------------------------------------------------------------------------------- the slanted triangle


def published(t: int, total: int, eta_max: float, cut_frac: float, ratio: float) -> float:
    """Equation 3 of the paper, symbol by symbol."""
    cut = math.floor(total * cut_frac)
    p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
    return eta_max * (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize(("total", "rise", "ratio"), [(100, 0.1, 32), (40, 0.25, 8), (2000, 0.1, 100)])
def test_the_slanted_triangle_is_the_published_formula(total: int, rise: float, ratio: float) -> None:
    for step in range(total):
        expected = published(step, total, 1.0, rise, ratio)
        assert slanted_triangular(step, total, rise, ratio) == pytest.approx(expected)


@pytest.mark.parametrize("total", [1, 2, 7, 19, 101])
def test_the_slanted_triangle_stays_within_its_bounds_in_runs_of_any_length(total: int) -> None:
    for rise in (0.0, 0.1, 0.33, 0.9):
        shares = [slanted_triangular(step, total, rise, 32) for step in range(total)]
        assert max(shares) == pytest.approx(1)
        assert min(shares) >= 1 / 32 - 1e-12
        top = shares.index(max(shares))
        assert shares[: top + 1] == sorted(shares[: top + 1])
        assert shares[top:] == sorted(shares[top:], reverse=True)


def test_the_steps_of_a_run_have_the_rates_of_the_slanted_triangle(
    backbone: Backbone, data: Path, tmp_path: Path, traced: list[Traced]
) -> None:
    made(
        backbone, data, tmp_path, scheduler="slanted_triangular", warmup=0.25, scheduler_ratio=16, learning_rate=0.02
    )()
    expected = [published(step, 3 * STEPS, 0.02, 0.25, 16) for step in range(3 * STEPS)]
    assert [rates[0] for rates in traced[0].rates] == pytest.approx(expected)


# ------------------------------------------------------------------------------------- every schedule


SCHEDULERS = get_args(TrainingOptions.model_fields["scheduler"].annotation)


@given(st.sampled_from(SCHEDULERS), st.integers(1, 300), st.floats(0, 1, exclude_max=True))
def test_no_step_of_any_schedule_is_empty_and_the_highest_rate_is_the_one_asked_for(
    scheduler: str, steps: int, warmup: float
) -> None:
    options = TrainingOptions(scheduler=scheduler, warmup=warmup)
    shares = [rate(options, step, steps) for step in range(steps)]
    assert min(shares) > 0
    assert max(shares) <= 1
    rising = math.ceil(steps * warmup)
    assert rising >= steps or max(shares) == pytest.approx(1)


@given(st.sampled_from(["linear", "cosine"]), st.integers(1, 300), st.floats(0, 1, exclude_max=True))
def test_after_the_warm_up_the_rates_are_those_of_transformers(scheduler: str, steps: int, warmup: float) -> None:
    rising = math.ceil(steps * warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    (theirs,) = get_scheduler(scheduler, optimizer, rising, steps).lr_lambdas
    options = TrainingOptions(scheduler=scheduler, warmup=warmup)
    ours = [rate(options, step, steps) for step in range(rising, steps)]
    assert ours == pytest.approx([theirs(step) for step in range(rising, steps)])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_each_step_moves_the_weights_also_where_a_run_has_only_two(
    backbone: Backbone, data: Path, tmp_path: Path, traced: list[Traced], scheduler: str
) -> None:
    run = made(backbone, data, tmp_path, scheduler=scheduler, epochs=2, batch_size=64)
    result = run()
    (trainer,) = traced
    weights = [*trainer.weights, trainer.model.tensors()[0]]
    assert len(weights) == 3
    assert all(moved(before, after) for before, after in pairwise(weights))
    assert result.shortfall == ""


# ----------------------------------------------------------------------------------------- by layer


@pytest.mark.parametrize("optimizer", RATES)
def test_each_layer_has_its_share_of_the_rate_of_the_one_above(
    backbone: Backbone, data: Path, tmp_path: Path, traced: list[Traced], optimizer: str
) -> None:
    if optimizer in ("lion", "adamw_8bit"):
        pytest.importorskip("bitsandbytes")
    rate = RATES[optimizer]
    given = {"layer_decay": 0.5, "optimizer": optimizer, "learning_rate": rate, "scheduler": "slanted_triangular"}
    made(backbone, data, tmp_path, epochs=1, **given)()
    found, trainer = traced[0].rates, traced[0]
    groups = trainer.optimizer.param_groups
    head, acting = trainer.model.answering[0], trainer.model.acting[0]
    distances = Distances(backbone, head.assembly).of_parameters(head, acting)
    for step, rates in enumerate(found):
        whole = rate * slanted_triangular(step, STEPS, 0.1, 32)
        for group, own in zip(groups, rates, strict=True):
            assert {distances[weight] for weight in group["params"]} == {round(math.log(own / whole, 0.5))}
            assert own == pytest.approx(whole * 0.5 ** distances[group["params"][0]])
    assert {distance for group in groups for distance in map(distances.get, group["params"])} == {0, 1, 2}


@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck"])
def test_the_first_steps_of_sgd_are_exactly_as_much_shorter_as_the_layers_are_lower(
    backbone: Backbone, data: Path, tmp_path: Path, traced: list[Traced], method: str
) -> None:
    common = {"optimizer": "sgd", "learning_rate": 0.1, "scheduler": "constant", "epochs": 1, "max_grad_norm": 1e9}
    for decay in (1.0, 0.5):
        made(backbone, data, tmp_path / str(decay), method, layer_decay=decay, weight_decay=0, **common)()
    even, slower = ([run.weights[1][name] - run.weights[0][name] for name in run.weights[0]] for run in traced)
    compared = set()
    for name, whole, own in zip(traced[0].weights[0], even, slower, strict=True):
        distance = next(distance for part, distance in PARTS.items() if name.startswith(part))
        torch.testing.assert_close(own, whole * 0.5**distance, atol=1e-7, rtol=1e-3)
        compared |= {distance} if whole.abs().max() > 1e-5 else set()
    assert compared == {0, 1, 2}


# ------------------------------------------------------------------------------------ gradual unfreezing


@pytest.mark.parametrize("optimizer", RATES)
def test_layers_that_wait_do_not_move_and_then_they_do(
    backbone: Backbone, data: Path, tmp_path: Path, traced: list[Traced], optimizer: str
) -> None:
    if optimizer in ("lion", "adamw_8bit"):
        pytest.importorskip("bitsandbytes")
    given = {"optimizer": optimizer, "learning_rate": RATES[optimizer], "weight_decay": 0.1, "warmup": 0.0}
    run = made(backbone, data, tmp_path, unfreeze_epochs=1, **given)
    run()
    weights = [*traced[0].weights, traced[0].model.tensors()[0]]
    assert len(weights) == 3 * STEPS + 1
    for step, (before, after) in enumerate(pairwise(weights)):
        expected = {part for part, distance in PARTS.items() if step >= distance * STEPS}
        assert moved(before, after) == expected, step


def test_the_epochs_of_a_layer_may_be_a_fraction(
    backbone: Backbone, data: Path, tmp_path: Path, traced: list[Traced]
) -> None:
    made(backbone, data, tmp_path, unfreeze_epochs=0.5, epochs=2, warmup=0.0)()
    weights = [*traced[0].weights, traced[0].model.tensors()[0]]
    first = {part: next(n for n in range(2 * STEPS) if part in moved(weights[n], weights[n + 1])) for part in PARTS}
    assert first == {"head.": 0, "layers.1.": 4, "layers.0.": 8}


def test_patience_begins_when_all_layers_learn(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    given = {"learning_rate": 1e-9, "epochs": 20, "patience": 2}
    assert made(backbone, data, tmp_path / "one", **given)().epochs == 3
    assert made(backbone, data, tmp_path / "two", unfreeze_epochs=2, **given)().epochs == 2 * 2 + 2


# --------------------------------------------------------------------------------- resumed, and refused


ALL = {"scheduler": "slanted_triangular", "unfreeze_epochs": 1, "layer_decay": 0.7}


@pytest.mark.parametrize(
    "options",
    [
        ALL,
        *(pytest.param({name: value}, marks=pytest.mark.slow) for name, value in ALL.items()),
        *(
            pytest.param({**ALL, "optimizer": name, "learning_rate": RATES[name]}, marks=pytest.mark.slow)
            for name in RATES
            if name != "adamw"
        ),
    ],
    ids=str,
)
def test_a_run_that_broke_off_and_was_resumed_ends_with_the_weights_of_one_that_did_not(
    backbone: Backbone, data: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    if options.get("optimizer") in ("lion", "adamw_8bit"):
        pytest.importorskip("bitsandbytes")
    given = {"checkpoint_steps": 11, "batch_size": 8, **options}

    def broken(progress: Progress) -> None:
        if progress.step >= 14:  # in the second epoch, when one layer still waits
            raise KeyboardInterrupt

    def end(folder: str, resume: bool = False) -> Result:
        return made(backbone, data, tmp_path / folder, **given)(resume=resume)

    assert made(backbone, data, tmp_path / "broken", **given)(broken).ending == "interrupted"
    whole, resumed = end("whole"), end("broken", resume=True)
    assert all(tensor.equal(resumed.adapter.tensors[name]) for name, tensor in whole.adapter.tensors.items())
    assert whole.adapter.card.metrics == resumed.adapter.card.metrics


@pytest.mark.parametrize(
    ("method", "options", "own", "words"),
    [
        ("prefix", {"layer_decay": 0.9}, {"reparameterise": True}, "made by one network"),
        ("features", {"unfreeze_epochs": 1}, {}, "trained at one place only"),
        ("lora", {"unfreeze_epochs": 1, "epochs": 2}, {}, "from epoch 2 on, and there are 2"),
        ("lora", {"layer_decay": 0}, {}, "layer_decay"),
        ("lora", {"unfreeze_epochs": -1}, {}, "unfreeze_epochs"),
        ("lora", {"scheduler_ratio": 1}, {}, "scheduler_ratio"),
    ],
)
def test_what_cannot_learn_apart_is_refused_before_any_work(
    backbone: Backbone, data: Path, method: str, options: dict[str, Any], own: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        plan(backbone, "ner", method, Source(data=str(data)), options, own)


def test_prompts_stand_beneath_the_lowest_layer(backbone: Backbone, data: Path) -> None:
    found = plan(backbone, "ner", "prompt", Source(data=str(data)), {"layer_decay": 0.5}, {"length": 2})
    assert Distances(backbone, found.assembly).all() == [0, 3]
