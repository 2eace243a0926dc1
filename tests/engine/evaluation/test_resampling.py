"""Resampling beside scipy's bootstrap and permutation test, and sums beside the metrics of the tasks."""

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.evaluation.resampling import Metric, interval, paired_test
from adaptdock.plugins.contracts import Summable, Task

Pair = tuple[dict[str, Any], dict[str, Any]]
TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]


def labels(draw: random.Random) -> Pair:
    record, label = {"text": "a", "label": draw.choice("xyz")}, draw.choice("xyz")
    return record, {"label": label, "score": 0.5, "scores": {label: 0.5}}


def label_sets(draw: random.Random) -> Pair:
    record = {"text": "a", "label": sorted(draw.sample("xyz", draw.randrange(3)))}
    return record, {"labels": sorted(draw.sample("xyz", draw.randrange(3))), "scores": {}}


def entity_tags(draw: random.Random, length: int) -> list[str]:
    tags: list[str] = []
    for _ in range(length):
        before = tags[-1] if tags else "O"
        legal = [tag for tag in TAGS if tag[0] != "I" or before[2:] == tag[2:]]
        tags.append(draw.choice(legal))
    return tags


def entities(draw: random.Random) -> Pair:
    length = draw.randrange(1, 6)
    return {"tokens": ["w"] * length, "tags": entity_tags(draw, length)}, {"tags": entity_tags(draw, length)}


def word_classes(draw: random.Random) -> Pair:
    length = draw.randrange(1, 6)
    words = [{"tag": draw.choice("xyz")} for _ in range(length)]
    return {"tokens": ["w"] * length, "tags": [draw.choice("xyz") for _ in range(length)]}, {"words": words}


def numbers(draw: random.Random) -> Pair:
    return {"text": "a", "label": draw.gauss(3, 2)}, {"value": draw.gauss(3, 2)}


def spans(draw: random.Random) -> Pair:
    texts = ["red cat", "a cat", "the dog", ""]
    answers = [{"text": draw.choice(texts[:3]), "start": 0}] * draw.randrange(2)
    return {"answers": answers}, {"answer": draw.choice(texts) or None}


def likelihoods(draw: random.Random) -> Pair:
    return {}, {"nll": draw.random() * 9, "tokens": draw.randrange(1, 9)}


def token_likelihoods(draw: random.Random) -> Pair:
    return {"texts": ["a text"]}, {"log_likelihood": -draw.random() * 9, "tokens": draw.randrange(1, 9), "right": 1}


KINDS: list[tuple[str, dict[str, Any], Callable[[random.Random], Pair]]] = [
    ("classification", {"labels": ("x", "y", "z")}, labels),
    ("classification", {"labels": ("x", "y", "z"), "multi_label": True}, label_sets),
    ("ner", {"labels": ("A", "B")}, entities),
    ("pos", {"labels": ("x", "y", "z")}, word_classes),
    ("regression", {"mean": 3.0, "deviation": 2.0}, numbers),
    ("qa", {}, spans),
    ("generation", {}, likelihoods),
    ("clm", {}, token_likelihoods),
]


def drawn(kind: Callable[[random.Random], Pair], count: int, seed: int) -> tuple[list[Any], list[Any]]:
    draw = random.Random(seed)
    records, predictions = zip(*(kind(draw) for _ in range(count)), strict=True)
    return list(records), list(predictions)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "options", "kind"), KINDS)
def test_the_metric_of_sums_is_the_metric_of_the_task(
    name: str, options: dict[str, Any], kind: Callable[[random.Random], Pair], seed: int
) -> None:
    task = make_task(name, options)
    assert isinstance(task, Summable)
    records, predictions = drawn(kind, 30, seed)
    value = Metric(task, records, predictions).value(np.arange(30))
    assert value == pytest.approx(task.score(records, predictions)[task.metric], abs=0.006)


def test_constant_numbers_have_no_correlation() -> None:
    task = make_task("regression", {"mean": 3.0, "deviation": 2.0})
    records, predictions = drawn(numbers, 10, 0)
    constant = [{"value": 1.0}] * 10
    assert Metric(task, records, constant).value(np.arange(10)) == task.score(records, constant)["pearson"] == 0.0
    assert Metric(task, records, predictions).value(np.arange(10)) != 0.0


def test_the_interval_is_that_of_the_percentile_bootstrap_of_scipy() -> None:
    task = make_task("classification", {"labels": ("x", "y", "z")})
    records, predictions = drawn(labels, 200, 1)
    metric = Metric(task, records, predictions)
    bounds = interval(metric, np.arange(200), draws=4000)
    oracle = stats.bootstrap((metric.right(0) * 100.0,), np.mean, method="percentile", n_resamples=4000, rng=0)
    assert bounds == pytest.approx(tuple(oracle.confidence_interval), abs=0.8)


def test_a_single_record_has_no_interval() -> None:
    records, predictions = drawn(labels, 1, 1)
    task = make_task("classification", {"labels": ("x", "y", "z")})
    metric = Metric(task, records, predictions, predictions)
    assert interval(metric, np.arange(1)) is None
    assert paired_test(metric).interval is None


@pytest.mark.parametrize(("name", "options", "kind"), [KINDS[2], KINDS[4], KINDS[6]])
def test_the_p_value_is_that_of_the_permutation_test_of_scipy(
    name: str, options: dict[str, Any], kind: Callable[[random.Random], Pair]
) -> None:
    task = make_task(name, options)
    records, first = drawn(kind, 9, 1)
    if name == "ner":
        second = [{"tags": ["O"] * len(record["tags"])} for record in records[:4]] + first[4:]
    elif name == "regression":
        second = [{"value": record["label"] + number % 2} for number, record in enumerate(records)]
    else:
        second = [{**answer, "nll": answer["nll"] * 0.8} for answer in first]
    metric = Metric(task, records, first, second)
    places = np.arange(len(records))

    def difference(a: Any, b: Any) -> float:
        """The statistic of scipy's samples: the value 2 n + side of record n."""
        sides = [np.asarray(side).astype(int) % 2 for side in (a, b)]
        order = [np.asarray(side).astype(int) // 2 for side in (a, b)]
        return metric.value(order[1], sides[1]) - metric.value(order[0], sides[0])

    exact = stats.permutation_test(
        (2 * places, 2 * places + 1), difference, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    extreme = np.abs(exact.null_distribution) >= abs(exact.statistic) - 1e-9
    result = paired_test(metric)
    assert result.difference == pytest.approx(exact.statistic)
    assert result.p_value == pytest.approx(extreme.mean(), abs=0.02)
    assert "permutation" in result.test


def classified(right: list[bool]) -> list[dict[str, Any]]:
    return [{"label": "x" if answer else "y", "score": 0.5, "scores": {"x": 0.5}} for answer in right]


def test_shares_of_right_records_get_the_exact_test_of_mcnemar() -> None:
    task = make_task("classification", {"labels": ("x", "y")})
    records = [{"text": "a", "label": "x"}] * 20
    first = classified([True] * 2 + [False] * 9 + [True] * 9)
    second = classified([False] * 2 + [True] * 9 + [True] * 9)
    result = paired_test(Metric(task, records, first, second))
    assert result.test == "McNemar's exact test"
    assert result.p_value == pytest.approx(2 * sum(math.comb(11, k) for k in range(3)) / 2**11)  # 2 against 9
    assert result.difference == pytest.approx(35.0)
    assert paired_test(Metric(task, records, first, first)).p_value == 1.0


def test_a_task_without_sums_is_resampled_by_its_score() -> None:
    class Plain(Task):
        metric = "share"

        def score(self, records: Any, predictions: Any) -> dict[str, float]:
            return {"share": 100 * sum(map(int, predictions)) / len(predictions)}

    Plain.__abstractmethods__ = frozenset()
    metric = Metric(Plain(None), [{}] * 40, [1] * 20 + [0] * 20, [1] * 39 + [0])  # type: ignore[abstract]
    assert not metric.summed
    assert metric.value(np.arange(40)) == 50
    low, high = interval(metric, np.arange(40)) or (0, 0)
    assert 25 < low < 50 < high < 75
    result = paired_test(metric)
    assert result.p_value < 0.05
    assert result.difference == pytest.approx(47.5)
