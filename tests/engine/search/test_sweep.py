"""Sweeps: what can be searched, what is tried, what failed trials leave, and that a study goes on."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from adaptdock.engine.search.sweep import Dimension, Finished, Report, SearchOptions, Space, Sweep, Trial
from adaptdock.errors import AdaptError, DataError, UsageError

pytest.importorskip("optuna")


def quadratic(number: int, values: Mapping[str, Any], report: Report) -> Finished:
    """A run whose metric is best at a learning rate of 1e-3."""
    return Finished(-((math.log10(values["learning_rate"]) + 3) ** 2), 1.0, 0.1, Path("trial"))


def sweep(*texts: str, lower: bool = False, identity: str = "", **options: Any) -> Sweep:
    return Sweep(Space.parse(texts), "lora", lower, SearchOptions(**options), identity=identity)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=1e-4..5e-3:log", Dimension("learning_rate", (), 1e-4, 5e-3, log=True)),
        ("weight-decay=0..0.1", Dimension("weight_decay", (), 0, 0.1)),
        ("rank=2..16", Dimension("rank", (), 2, 16, whole=True)),
        ("rank=4, 8,16", Dimension("rank", ("4", "8", "16"))),
        ("roles=query,value|all", Dimension("roles", ("query,value", "all"))),
        ("seed=3", Dimension("seed", ("3",))),
    ],
)
def test_a_search_is_a_list_or_a_range(text: str, expected: Dimension) -> None:
    assert Dimension.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rank", "write KEY=A,B,C"),
        ("rank=", "write KEY=A,B,C"),
        ("=4", "write KEY=A,B,C"),
        ("rank=4,,8", "empty or stands there twice"),
        ("rank=4,4", "empty or stands there twice"),
        ("rank=8..4", "the range is empty: 8 is not below 4"),
        ("rank=4..4", "the range is empty"),
        ("rank=a..b", "the ends of a range are numbers"),
        ("rank=1..inf", "the range is empty"),
        ("learning_rate=0..1:log", "begins above 0"),
        ("learning_rate=1e-4..1:exp", "':log', not ':exp'"),
    ],
)
def test_what_is_no_search_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Dimension.parse(text)


def test_nothing_to_search_and_a_key_searched_twice_are_refused() -> None:
    with pytest.raises(UsageError, match="--search is missing"):
        Space.parse([])
    with pytest.raises(UsageError, match="names rank twice"):
        Space.parse(["rank=1,2", "rank=4..8"])


def test_a_setting_is_tried_only_with_methods_that_have_it() -> None:
    space = Space(
        Space.parse(["rank=2,4", "method=lora,prefix", "length=3,5"]).dimensions,
        {"rank": frozenset({"lora"}), "length": frozenset({"prefix"})},
    )
    assert space.grid("lora") == [
        {"rank": "2", "method": "lora"},
        {"method": "prefix", "length": "3"},
        {"method": "prefix", "length": "5"},
        {"rank": "4", "method": "lora"},
    ]
    tried: list[Mapping[str, Any]] = []

    def one(number: int, values: Mapping[str, Any], report: Report) -> Finished:
        tried.append(values)
        return Finished(1.0, 1, 1, Path())

    Sweep(space, "lora", False, SearchOptions(sampler="random", trials=12)).run(one, lambda trial: None)
    assert {frozenset(values) for values in tried} == {frozenset({"method", "rank"}), frozenset({"method", "length"})}


def test_a_grid_is_tried_whole_and_once() -> None:
    made = sweep("learning_rate=1e-4,1e-3", "rank=2..4", sampler="grid")
    assert made.run(lambda *_: Finished(1.0, 1, 1, Path()), lambda trial: None) == "complete"
    tried = [(trial.values["learning_rate"], trial.values["rank"]) for trial in made.found()]
    assert sorted(tried) == [(rate, rank) for rate in ("1e-3", "1e-4") for rank in (2, 3, 4)]
    with pytest.raises(UsageError, match="grid tries every value"):
        sweep("learning_rate=1e-4..1e-3", sampler="grid")


def test_values_stay_in_their_range_and_tpe_closes_in_on_the_best() -> None:
    made = sweep("learning_rate=1e-5..1e-1:log", trials=40)
    made.run(quadratic, lambda trial: None)
    rates = [trial.values["learning_rate"] for trial in made.found()]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    away = [abs(math.log10(rate) + 3) for rate in rates]
    assert median(away[20:]) < 0.5  # 1 at random
    best = made.best()
    assert best is not None
    assert abs(math.log10(best.values["learning_rate"]) + 3) == min(away)


def test_the_least_is_the_best_where_the_metric_is_an_error() -> None:
    made = sweep("seed=1,2,3", lower=True, sampler="grid")
    made.run(lambda number, values, _: Finished(float(values["seed"]), 1, 1, Path()), lambda trial: None)
    best = made.best()
    assert best is not None
    assert best.values == {"seed": "1"}


def test_a_trial_that_fails_is_recorded_and_the_others_go_on() -> None:
    def one(number: int, values: Mapping[str, Any], report: Report) -> Finished:
        if values["seed"] == "2":
            raise AdaptError("the loss became nan")
        return Finished(math.nan if values["seed"] == "3" else 50.0, 1, 1, Path())

    heard: list[Trial] = []
    made = sweep("seed=1,2,3,4", sampler="grid")
    assert made.run(one, heard.append) == "complete"
    states = {trial.values["seed"]: (trial.state, trial.reason) for trial in heard}
    assert states["1"] == states["4"] == ("complete", "")
    assert states["2"] == ("failed", "the loss became nan")
    assert states["3"] == ("failed", "the validation metric is nan")


def test_a_trial_worse_than_half_of_the_others_is_ended_early_unless_that_is_off() -> None:
    def one(number: int, values: Mapping[str, Any], report: Report) -> Finished:
        for epoch in (1, 2, 3):
            report(epoch, float(values["seed"]) * epoch)
        return Finished(float(values["seed"]) * 3, 3, 1, Path())

    for prune, states in ((True, ["complete"] * 4 + ["pruned"]), (False, ["complete"] * 5)):
        made = sweep("seed=9,8,7,6,1", sampler="grid", prune=prune)
        made.run(one, lambda trial: None)
        assert [trial.state for trial in made.found()] == states


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path) -> None:
    file, seeds = tmp_path / "study.db", "seed=1,2,3,4"

    def broken(number: int, values: Mapping[str, Any], report: Report) -> Finished:
        if values["seed"] == "3":
            raise KeyboardInterrupt
        return Finished(float(values["seed"]), 1.5, 2.5, tmp_path / values["seed"])

    first = sweep(seeds, sampler="grid", study=str(file), identity="a")
    assert first.run(broken, lambda trial: None) == "interrupted"
    assert [trial.state for trial in first.found()] == ["complete", "complete", "interrupted"]
    tried: list[str] = []

    def whole(number: int, values: Mapping[str, Any], report: Report) -> Finished:
        tried.append(values["seed"])
        return Finished(0.5, 1, 1, tmp_path)

    second = sweep(seeds, sampler="grid", study=str(file), identity="a")
    assert second.run(whole, lambda trial: None) == "complete"
    assert sorted(tried) == ["3", "4"]
    best = second.best()
    assert best == Trial(1, {"seed": "2"}, "complete", 2.0, 1.5, 2.5, tmp_path / "2")
    with pytest.raises(UsageError, match="name another --study"):
        sweep(seeds, study=str(file), identity="b")
    (tmp_path / "no.db").write_text("not a data base, but long enough to be one " * 50)
    with pytest.raises(DataError, match="cannot be used as a study"):
        sweep(seeds, study=str(tmp_path / "no.db"))


def test_trials_with_the_same_metric_are_ordered_by_their_validation_loss(tmp_path: Path) -> None:
    losses = {"1": 0.9, "2": 0.7, "3": 0.8}

    def same(number: int, values: Mapping[str, Any], report: Report) -> Finished:
        return Finished(50.0, 1, 1, tmp_path, loss=losses[values["seed"]])

    made = sweep("seed=1,2,3", sampler="grid")
    made.run(same, lambda trial: None)
    best = made.best()
    assert best is not None
    assert (best.values, best.loss) == ({"seed": "2"}, 0.7)


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'adaptdock\[sweep\]'"):
        sweep("seed=1,2")
