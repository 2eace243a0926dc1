"""Mean, spread and 95 % interval of a metric over repeated runs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

CONFIDENCE = 0.95


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of a mean, by Student's t; infinite for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return math.inf
    return float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Spread:
    """The values of a metric, their mean, their standard deviation (of a sample), and the 95 % interval of the mean."""

    mean: float
    deviation: float
    low: float
    high: float
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the spread of two or more values, rounded to four decimals."""
        mean, half = statistics.fmean(values), half_width(values)
        deviation = round(statistics.stdev(values), 4)
        return cls(round(mean, 4), deviation, round(mean - half, 4), round(mean + half, 4), list(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"
