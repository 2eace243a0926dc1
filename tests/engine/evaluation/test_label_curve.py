"""The curve over the number of labels: a power law is found again, and doubt is said."""

import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from adaptdock.engine.evaluation.label_curve import LabelCurve, LabelPoint, read_label_curve

SIZES = (25, 50, 75, 100)


def curve(values: dict[int, list[float]], lower: bool = False) -> LabelCurve:
    points = [
        LabelPoint(fold, records, value)
        for fold, row in values.items()
        for records, value in zip(SIZES, row, strict=False)
    ]
    return LabelCurve("accuracy", lower, 120, tuple(points))


def law(scale: float, power: float) -> list[float]:
    return [100 - scale * size**-power for size in SIZES]


def test_a_power_law_is_continued_to_twice_the_records() -> None:
    scales = (190.0, 200.0, 210.0, 205.0)
    forecast = curve({fold: law(scale, 0.5) for fold, scale in enumerate(scales)}).forecast()
    assert forecast is not None
    gains = [scale * (120**-0.5 - 240**-0.5) for scale in scales]
    assert forecast.gain == pytest.approx(statistics.fmean(gains))
    interval = stats.t.interval(0.95, 3, loc=np.mean(gains), scale=stats.sem(gains))
    assert (forecast.low, forecast.high) == pytest.approx(interval)
    worse = curve({fold: [100 - value for value in law(scale, 0.5)] for fold, scale in enumerate(scales)}, lower=True)
    fallen = worse.forecast()
    assert fallen is not None
    assert fallen.gain == pytest.approx(-forecast.gain)


def test_the_verdict_has_the_gain_and_its_interval_or_says_that_it_cannot_be_told() -> None:
    clear = curve({fold: law(scale, 0.5) for fold, scale in enumerate((190.0, 200.0, 210.0, 205.0))})
    assert clear.verdict().startswith("Twice the labels (240) would give about +5.4 accuracy, between +5.")
    flat = curve({0: [70, 72, 69, 71], 1: [71, 69, 72, 70], 2: [70, 70, 71, 70], 3: [72, 71, 70, 71]})
    assert flat.verdict().startswith("Whether twice the labels would help can't be told: the forecast is about ")
    for values in ({0: [70, 80], 1: [71, 81]}, {0: [70, 80, 90, 100], 1: law(200, 0.5)}):
        assert "can't be told" in curve(values).verdict()
        assert curve(values).forecast() is None


def test_a_curve_is_read_back_from_the_folder_of_a_run(tmp_path: Path) -> None:
    assert read_label_curve(tmp_path) is None
    before = curve({0: law(190, 0.5), 1: law(200, 0.5)})
    before.save(tmp_path)
    assert read_label_curve(tmp_path) == before
    records, mean, low, high = before.means()[0]
    assert (records, mean) == (25, pytest.approx(100 - 195 / 5))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 1, loc=mean, scale=stats.sem([62.0, 60.0])))
