"""The confusion matrix of labels, and its most frequent errors."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from adaptdock.plugins.contracts import Outcome

SHOWN = 20
"""Most labels of a drawn matrix, and most rows of the list of errors."""


@dataclass(frozen=True)
class Confusion:
    """How often each expected label was predicted as which; ``labels`` are drawn, ``hidden`` counts the others."""

    counts: Counter[tuple[str, str]]
    labels: tuple[str, ...]
    hidden: int

    @property
    def rows(self) -> list[str]:
        """The drawn labels that are expected somewhere."""
        expected = {pair[0] for pair in self.counts}
        return [label for label in self.labels if label in expected]

    @property
    def columns(self) -> list[str]:
        """The drawn labels that are predicted somewhere."""
        predicted = {pair[1] for pair in self.counts}
        return [label for label in self.labels if label in predicted]

    @property
    def total(self) -> int:
        """The number of compared answers."""
        return self.counts.total()

    @property
    def errors(self) -> int:
        """The number of wrong answers."""
        return sum(count for (expected, predicted), count in self.counts.items() if expected != predicted)

    def frequent(self, limit: int = SHOWN) -> list[tuple[str, str, int]]:
        """Return (expected, predicted, count) of the most frequent errors."""
        wrong = [(*pair, count) for pair, count in self.counts.items() if pair[0] != pair[1]]
        return sorted(wrong, key=lambda error: (-error[2], error[:2]))[:limit]

    def share(self, expected: str, predicted: str) -> float:
        """Return the share of the answers with an expected label that have the predicted one, 0 to 1."""
        row = sum(count for (label, _), count in self.counts.items() if label == expected)
        return self.counts[expected, predicted] / row if row else 0.0


def confusion(outcomes: Iterable[Outcome]) -> Confusion | None:
    """Return the confusion matrix of outcomes; None if they have no labels."""
    counts = Counter(pair for outcome in outcomes for pair in outcome.pairs)
    if not counts:
        return None
    errors = Counter({label: 0 for pair in counts for label in pair})
    for (expected, predicted), count in counts.items():
        if expected != predicted:
            errors.update({expected: count, predicted: count})
    labels = sorted(errors, key=lambda label: (-errors[label], label))[:SHOWN]
    return Confusion(counts, tuple(sorted(labels, key=_order)), len(errors) - len(labels))


def _order(label: str) -> tuple[bool, str]:
    """Return the sort key of a label: names in brackets come last, as the data has no such labels."""
    return label.startswith("("), label
