"""Sweeps: what can be searched, what is tried, what failed trials leave, and that a study goes on."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from adaptdock.engine.search.sweep import (
    Dimension,
    Finished,
    Halving,
    Outcome,
    Proposals,
    SearchOptions,
    Space,
    Sweep,
    Train,
    Trial,
)
from adaptdock.errors import AdaptError, DataError, UsageError

pytest.importorskip("optuna")


Report = Callable[[float, float], None]


class Pruned(Exception):
    """Ends a run in a test early."""


def alone(one: Callable[[int, Mapping[str, Any], Report], Finished]) -> Train:
    """Train the trials of a pass one after the other."""

    def train(proposals: Proposals, judge: Halving) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        for number, values in proposals.values.items():

            def report(epoch: float, score: float, number: int = number) -> None:
                if judge({number: (epoch, score)}):
                    raise Pruned

            try:
                outcomes[number] = one(number, values, report)
            except Pruned:
                outcomes[number] = None
            except AdaptError as error:
                outcomes[number] = error
        return outcomes

    return train


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

    Sweep(space, "lora", False, SearchOptions(sampler="random", trials=12)).run(alone(one), lambda trial: None)
    assert {frozenset(values) for values in tried} == {frozenset({"method", "rank"}), frozenset({"method", "length"})}


def test_a_grid_is_tried_whole_and_once() -> None:
    made = sweep("learning_rate=1e-4,1e-3", "rank=2..4", sampler="grid")
    assert made.run(alone(lambda *_: Finished(1.0, 1, 1, Path())), lambda trial: None) == "complete"
    tried = [(trial.values["learning_rate"], trial.values["rank"]) for trial in made.found()]
    assert sorted(tried) == [(rate, rank) for rate in ("1e-3", "1e-4") for rank in (2, 3, 4)]
    with pytest.raises(UsageError, match="grid tries every value"):
        sweep("learning_rate=1e-4..1e-3", sampler="grid")


def test_values_stay_in_their_range_and_tpe_closes_in_on_the_best() -> None:
    made = sweep("learning_rate=1e-5..1e-1:log", trials=40)
    made.run(alone(quadratic), lambda trial: None)
    rates = [trial.values["learning_rate"] for trial in made.found()]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    away = [abs(math.log10(rate) + 3) for rate in rates]
    assert median(away[20:]) < 0.5  # 1 at random
    best = made.best()
    assert best is not None
    assert abs(math.log10(best.values["learning_rate"]) + 3) == min(away)


def test_the_least_is_the_best_where_the_metric_is_an_error() -> None:
    made = sweep("seed=1,2,3", lower=True, sampler="grid")
    made.run(alone(lambda number, values, _: Finished(float(values["seed"]), 1, 1, Path())), lambda trial: None)
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
    assert made.run(alone(one), heard.append) == "complete"
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
        made.run(alone(one), lambda trial: None)
        assert [trial.state for trial in made.found()] == states


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path) -> None:
    file, seeds = tmp_path / "study.db", "seed=1,2,3,4"

    def broken(number: int, values: Mapping[str, Any], report: Report) -> Finished:
        if values["seed"] == "3":
            raise KeyboardInterrupt
        return Finished(float(values["seed"]), 1.5, 2.5, tmp_path / values["seed"])

    first = sweep(seeds, sampler="grid", study=str(file), identity="a")
    assert first.run(alone(broken), lambda trial: None) == "interrupted"
    assert [trial.state for trial in first.found()] == ["complete", "complete", "interrupted"]
    tried: list[str] = []

    def whole(number: int, values: Mapping[str, Any], report: Report) -> Finished:
        tried.append(values["seed"])
        return Finished(0.5, 1, 1, tmp_path)

    second = sweep(seeds, sampler="grid", study=str(file), identity="a")
    assert second.run(alone(whole), lambda trial: None) == "complete"
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
    made.run(alone(same), lambda trial: None)
    best = made.best()
    assert best is not None
    assert (best.values, best.loss) == ({"seed": "2"}, 0.7)


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'adaptdock\[sweep\]'"):
        sweep("seed=1,2")


def test_the_worse_half_of_a_pass_ends_after_two_epochs() -> None:
    def train(proposals: Proposals, judge: Halving) -> dict[int, Outcome]:
        going = {number: float(values["seed"]) for number, values in proposals.values.items()}
        outcomes: dict[int, Outcome] = {}
        for epoch in (1, 2, 3):
            ended = judge({number: (epoch, score) for number, score in going.items()})
            outcomes |= dict.fromkeys(ended)
            going = {number: score for number, score in going.items() if number not in ended}
        return outcomes | {number: Finished(score, 3, 1, Path()) for number, score in going.items()}

    for prune, kept in ((True, {"5", "6", "7", "8"}), (False, set("12345678"))):
        made = sweep("seed=1,2,3,4,5,6,7,8", sampler="grid", prune=prune)
        made.run(train, lambda trial: None, together=8)
        assert {trial.values["seed"] for trial in made.found() if trial.state == "complete"} == kept
        assert {trial.epochs for trial in made.found() if trial.state == "pruned"} == ({2.0} if prune else set())


def test_a_pass_too_large_for_memory_is_trained_in_halves() -> None:
    sizes: list[int] = []

    def train(proposals: Proposals, judge: Halving) -> dict[int, Outcome]:
        sizes.append(len(proposals.values))
        if len(proposals.values) > 1:
            raise MemoryError
        return {number: Finished(1.0, 1, 1, Path()) for number in proposals.values}

    made = sweep("seed=1,2,3,4", sampler="grid")
    made.run(train, lambda trial: None, together=4)
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
    assert [trial.state for trial in made.found()] == ["complete"] * 4


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_killed_pass_is_resumed_with_its_trials_and_judgements(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    search, options = "learning_rate=1e-4..1e-1:log", {"trials": 6, "study": str(tmp_path / "study.db")}
    passes: list[Proposals] = []
    scores = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: 5.0}

    def killed(proposals: Proposals, judge: Halving) -> dict[int, Outcome]:
        proposals.folder.mkdir(parents=True)
        passes.append(proposals)
        assert judge({number: (2, scores[number]) for number in proposals.values}) == {0, 1}
        raise Killed

    with pytest.raises(Killed):
        sweep(search, **options).run(killed, lambda trial: None, tmp_path, together=5)

    def resumed(proposals: Proposals, judge: Halving) -> dict[int, Outcome]:
        passes.append(proposals)
        if proposals.resumed:
            assert judge({number: (2, scores[number]) for number in proposals.values}) == {0, 1}
            return {number: None if number < 2 else Finished(1.0, 3, 1, Path()) for number in proposals.values}
        return {number: Finished(0.0, 3, 1, Path()) for number in proposals.values}

    second = sweep(search, **options)
    second.run(resumed, lambda trial: None, tmp_path, together=5)
    assert [(list(part.values), part.resumed) for part in passes] == [
        ([0, 1, 2, 3, 4], False), ([0, 1, 2, 3, 4], True), ([5], False)
    ]  # fmt: skip
    assert passes[0].values == passes[1].values
    assert [trial.state for trial in second.found()] == ["pruned"] * 2 + ["complete"] * 4
