"""Mean and interval over repeated runs, beside scipy's own interval."""

import math

import pytest
from scipy import stats

from adaptdock.engine.evaluation.intervals import Spread, half_width


def test_the_interval_is_that_of_students_t() -> None:
    values = [61.2, 58.0, 64.5, 60.1, 59.3]
    spread = Spread.of(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (spread.low, spread.high) == pytest.approx((low, high), abs=1e-4)
    assert spread.mean == pytest.approx(60.62)
    assert spread.deviation == pytest.approx(stats.tstd(values), abs=1e-4)
    assert str(spread) == f"60.62 ({low:.2f} to {high:.2f})"


def test_a_single_value_has_no_interval() -> None:
    assert half_width([3.0]) == math.inf
