"""Successive halving beside Optuna's pruner of that name, one trial after the other, and among the trials of a pass."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.core.assembly import validated
from adaptdock.engine.search.pruning import SuccessiveHalving
from adaptdock.engine.search.sweep import Finished, Halving, Outcome, Proposals, SearchOptions, Space, Sweep
from adaptdock.errors import UsageError

optuna = pytest.importorskip("optuna")


def epochs_of(pruner: Any, direction: str, values: list[list[float]]) -> list[int]:
    """Run trials one after the other on given values by epoch, and return the epochs that each of them reached."""
    study = optuna.create_study(direction=direction, pruner=pruner)
    reached = []
    for row in values:
        trial = study.ask()
        for epoch, value in enumerate(row, 1):
            trial.report(value, epoch)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, 0.0)  # the rule compares the values at rungs alone
        reached.append(epoch)
    return reached


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_that_of_optunas_pruner_on_the_same_values(direction: str, seed: int) -> None:
    draw = random.Random(seed)
    values = [[draw.choice([float("nan"), *map(float, range(12))]) for _ in range(9)] for _ in range(24)]
    expected = epochs_of(optuna.pruners.SuccessiveHalvingPruner(1, 2, 0), direction, values)
    assert len(set(expected)) > 3
    assert epochs_of(SuccessiveHalving(), direction, values) == expected


@pytest.mark.parametrize("lower", [False, True])
def test_half_of_a_pass_ends_at_each_rung(lower: bool) -> None:
    def train(proposals: Proposals, judge: Halving) -> dict[int, Outcome]:
        remaining = {number: float(values["seed"]) for number, values in proposals.values.items()}
        outcomes: dict[int, Outcome] = {}
        for epoch in range(1, 9):
            ended = judge({number: (epoch, score) for number, score in remaining.items()})
            outcomes |= dict.fromkeys(ended)
            remaining = {number: score for number, score in remaining.items() if number not in ended}
        return outcomes | {number: Finished(score, 8, 1, Path()) for number, score in remaining.items()}

    options = SearchOptions(sampler="grid", halving=True)
    sweep = Sweep(Space.parse(["seed=4,1,7,2,8,6,3,5"]), "lora", lower, options)
    sweep.run(train, lambda trial: None, together=8)
    ended: Mapping[str, float] = {trial.values["seed"]: trial.epochs for trial in sweep.found()}
    best_first = sorted(ended, key=int, reverse=not lower)
    assert [ended[seed] for seed in best_first] == [8, 4, 2, 2, 1, 1, 1, 1]
    assert [trial.values["seed"] for trial in sweep.found() if trial.state == "complete"] == best_first[:1]


def test_halving_without_pruning_is_refused() -> None:
    with pytest.raises(UsageError, match="halving ends trials early, and no-prune ends none"):
        validated(SearchOptions, {"halving": True, "prune": False}, "search")
