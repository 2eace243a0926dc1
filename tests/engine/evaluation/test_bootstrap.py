"""Bootstrap intervals: as wide as theory has them, the same for the same seed."""

import math

import pytest

from adaptdock.engine.evaluation.bootstrap import intervals
from adaptdock.errors import UsageError
from adaptdock.tasks.classification import Classification


def given(right: int, count: int) -> tuple[Classification, list, list]:
    task = Classification(Classification.Options(labels=("a", "b")))
    records = [{"label": "ab"[number % 2]} for number in range(count)]
    found = [record["label"] if number < right else "ba"[number % 2] for number, record in enumerate(records)]
    return task, records, [{"label": name, "score": 1.0, "scores": {name: 1.0}} for name in found]


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    low, high = intervals(*given(160, 200), draws=400)["accuracy"]
    error = 100 * math.sqrt(0.8 * 0.2 / 200)
    assert low == pytest.approx(80 - 1.96 * error, abs=1.5)
    assert high == pytest.approx(80 + 1.96 * error, abs=1.5)


def test_a_seed_decides_the_draws() -> None:
    assert intervals(*given(30, 40), draws=30, seed=1) == intervals(*given(30, 40), draws=30, seed=1)
    assert intervals(*given(30, 40), draws=30, seed=1) != intervals(*given(30, 40), draws=30, seed=2)


def test_one_record_cannot_be_drawn_from() -> None:
    with pytest.raises(UsageError, match="here are 1 records"):
        intervals(*given(1, 1), draws=20)
