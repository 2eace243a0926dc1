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
    scores = [score for outcome in outcomes for score in outcome.scores]
    if len(scores) < FEWEST:
        return None
    parts: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for score, right in scores:
        parts[min(BINS - 1, int(score * BINS))].append((score, right))
    bins = tuple(
        Bin(
            number / BINS,
            (number + 1) / BINS,
            len(part),
            sum(score for score, _ in part) / len(part),
            sum(right for _, right in part) / len(part),
        )
        for number, part in enumerate(parts)
        if part
    )
    error = sum(abs(part.score - part.right) * part.count for part in bins) / len(scores)
    excess = sum((part.score - part.right) * part.count for part in bins) / len(scores)
    return Calibration(bins, len(scores), error, excess)
