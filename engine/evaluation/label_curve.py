"""The curve of the metric over the number of labels, and the gain that twice the labels would give.

The distance of the metric from its best value follows a power law of the number of records (Hestness et al. 2017,
arXiv:1712.00409). A line through the logarithms is fitted for each fold; the spread of the folds gives the interval.
"""

import json
import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from adaptdock.engine.evaluation.intervals import half_width

FILE = "label_curve.json"
BEST = 100.0
"""Best value of metrics in percent."""
ENOUGH = 3
"""Fewest shares for a forecast."""


@dataclass(frozen=True)
class LabelPoint:
    """The metric of one fold after training on a share of the other folds."""

    fold: int
    records: int
    value: float


@dataclass(frozen=True)
class Forecast:
    """The gain of the metric by twice the labels, with its 95 % interval."""

    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class LabelCurve:
    """The measured points, and the number of records of the whole training data."""

    metric: str
    lower_is_better: bool
    records: int
    points: tuple[LabelPoint, ...]

    def means(self) -> list[tuple[float, float, float, float]]:
        """Return the records, the mean of the folds, and its 95 % interval, for each share."""
        rows = []
        for values in self._by_share():
            mean = statistics.fmean(point.value for point in values)
            half = half_width([point.value for point in values])
            rows.append((statistics.fmean(point.records for point in values), mean, mean - half, mean + half))
        return rows

    def forecast(self) -> Forecast | None:
        """Return the gain by twice the labels; None for too few shares, or where a fold has reached the best value."""
        by_fold: dict[int, list[LabelPoint]] = {}
        for point in self.points:
            by_fold.setdefault(point.fold, []).append(point)
        gains = []
        for points in by_fold.values():
            errors = [self._error(point.value) for point in points]
            if len({point.records for point in points}) < ENOUGH or min(errors) <= 0:
                return None
            slope, intercept = statistics.linear_regression(
                [math.log(point.records) for point in points], [math.log(error) for error in errors]
            )
            now, then = (math.exp(intercept + slope * math.log(number)) for number in (self.records, 2 * self.records))
            gains.append(then - now if self.lower_is_better else now - then)
        gain, half = statistics.fmean(gains), half_width(gains)
        return Forecast(gain, gain - half, gain + half)

    def verdict(self) -> str:
        """Return in words what twice the labels would give."""
        forecast = self.forecast()
        if forecast is None:
            return (
                f"What twice the labels would give can't be told: a forecast needs at least {ENOUGH} shares, and a "
                f"{self.metric} below its best value in each of them."
            )
        reached = f"about {forecast.gain:+.1f} {self.metric}, between {forecast.low:+.1f} and {forecast.high:+.1f}"
        if forecast.low <= 0 <= forecast.high:
            return f"Whether twice the labels would help can't be told: the forecast is {reached}."
        return f"Twice the labels ({2 * self.records:,}) would give {reached} (95 %, by a power law)."

    def save(self, folder: Path) -> None:
        """Write the curve into a run's folder."""
        document = {**asdict(self), "verdict": self.verdict()}
        (folder / FILE).write_text(json.dumps(document, indent=2) + "\n")

    def _error(self, value: float) -> float:
        return value if self.lower_is_better else BEST - value

    def _by_share(self) -> list[list[LabelPoint]]:
        """Return the points of each share, the smallest first; every fold has all shares in one order."""
        folds = [[point for point in self.points if point.fold == fold] for fold in {p.fold for p in self.points}]
        return [list(points) for points in zip(*folds, strict=True)]


def read_label_curve(folder: Path) -> LabelCurve | None:
    """Return the curve in a run's folder; None if there is none."""
    if not (folder / FILE).exists():
        return None
    document = json.loads((folder / FILE).read_text())
    points = tuple(LabelPoint(**point) for point in document["points"])
    return LabelCurve(document["metric"], document["lower_is_better"], document["records"], points)
