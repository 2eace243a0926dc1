"""Calibration: whether scores are the probabilities of right answers (reliability by bins, Guo et al. 2017)."""

from collections.abc import Iterable
from dataclasses import dataclass

from adaptdock.plugins.contracts import Outcome

BINS = 10
FEWEST = 20
"""Fewest scores that a reliability table is made of."""


@dataclass(frozen=True)
class Bin:
    """The answers with a score between two bounds: their number, mean score and share of right ones."""

    low: float
    high: float
    count: int
    score: float
    right: float


@dataclass(frozen=True)
class Calibration:
    """The reliability by bins; ``error`` is the mean distance of score and share of right answers, 0 to 1.

    ``excess`` is the mean score minus the share of right answers: above 0 the scores are too sure.
    """

    bins: tuple[Bin, ...]
    count: int
    error: float
    excess: float


def calibration(outcomes: Iterable[Outcome]) -> Calibration | None:
    """Return the calibration of outcomes; None for fewer than 20 scores."""
    counts, sums, rights = [0] * BINS, [0.0] * BINS, [0] * BINS
    for score, right in (score for outcome in outcomes for score in outcome.scores):
        number = min(BINS - 1, int(score * BINS))
        counts[number] += 1
        sums[number] += score
        rights[number] += right
    total = sum(counts)
    if total < FEWEST:
        return None
    bins = tuple(
        Bin(number / BINS, (number + 1) / BINS, count, sums[number] / count, rights[number] / count)
        for number, count in enumerate(counts)
        if count
    )
    error = sum(abs(part.score - part.right) * part.count for part in bins) / total
    excess = sum((part.score - part.right) * part.count for part in bins) / total
    return Calibration(bins, total, error, excess)
