"""Slices: the metric on parts of the data, by length of the text, unseen words and label."""

import string
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptdock.engine.data.checks import text_of
from adaptdock.engine.evaluation.resampling import Interval, Metric, interval
from adaptdock.plugins.contracts import Record, Task

GROUPS = 4
FEWEST = 10
"""Fewest records of a slice by length or by unseen words."""
SHOWN_LABELS = 12
DRAWS = 200
MANY_UNSEEN = 0.25
"""Share of unseen words from which a text belongs to the last slice."""
LENGTH, UNSEEN, LABEL = "Length of the text", "Words that training has not seen", "Label"


@dataclass(frozen=True)
class Slice:
    """A part of the data, with the metric on it and its 95 % interval; ``kind`` says how the data is divided."""

    kind: str
    name: str
    records: int
    value: float
    interval: Interval | None

    def differs(self, value: float) -> bool:
        """Return whether a value is outside the interval."""
        if self.interval is None or self.interval[0] == self.interval[1]:  # equal records say nothing of the spread
            return False
        return not self.interval[0] <= value <= self.interval[1]


def slices(
    metric: Metric, records: Sequence[Record], task: Task, training: Sequence[Record] | None, by_label: bool
) -> list[Slice]:
    """Return the slices of measured records; those by unseen words need the training records."""
    vocabulary = None if training is None else {word for record in training for word in words_of(record, task)}
    lengths, unseen = array("q"), array("d")
    for record in records:
        words = words_of(record, task)
        lengths.append(len(words))
        if vocabulary is not None:
            unseen.append(_unseen(words, vocabulary))
    groups = [*_by_length(lengths)]
    if training is not None:
        groups += _by_unseen(unseen)
    if by_label:
        groups += _by_label(records, task)
    return [_slice(metric, kind, name, numbers) for kind, name, numbers in groups]


Group = tuple[str, str, NDArray[np.int64]]


def words_of(record: Record, task: Task) -> list[str]:
    """Return the words of a record's texts in lower case, divided at white space, without punctuation around them."""
    parts = (word.strip(string.punctuation) for word in " ".join(text_of(record, task)).casefold().split())
    return [part for part in parts if part]


def _slice(metric: Metric, kind: str, name: str, numbers: NDArray[np.int64]) -> Slice:
    bounds = interval(metric, numbers, DRAWS) if metric.summed else None
    return Slice(kind, name, len(numbers), metric.value(numbers), bounds)


def _by_length(lengths: Sequence[int]) -> list[Group]:
    """Return groups of nearly equal size, from short to long texts; none if there are too few or equal lengths."""
    count = min(GROUPS, len(lengths) // FEWEST)
    if count < 2:
        return []
    bounds = sorted({int(bound) for bound in np.quantile(lengths, np.linspace(0, 1, count + 1)[1:])})
    lowest = [min(lengths), *(bound + 1 for bound in bounds[:-1])]
    groups = _chosen(
        LENGTH,
        lengths,
        [
            (f"{low} to {high} words", lambda length, low=low, high=high: low <= length <= high)  # type: ignore[misc]
            for low, high in zip(lowest, bounds, strict=True)
        ],
    )
    return groups if len(groups) > 1 else []


def _unseen(text: Sequence[str], vocabulary: set[str]) -> float:
    return sum(word not in vocabulary for word in text) / max(1, len(text))


def _by_unseen(shares: Sequence[float]) -> list[Group]:
    return _chosen(
        UNSEEN,
        shares,
        [
            ("none", lambda share: share == 0),
            (f"up to {MANY_UNSEEN:.0%} of the words", lambda share: 0 < share <= MANY_UNSEEN),
            (f"more than {MANY_UNSEEN:.0%} of the words", lambda share: share > MANY_UNSEEN),
        ],
    )


def _chosen(
    kind: str, values: Sequence[float], conditions: Iterable[tuple[str, Callable[[float], bool]]]
) -> list[Group]:
    groups = [(kind, name, np.flatnonzero([condition(value) for value in values])) for name, condition in conditions]
    return [group for group in groups if len(group[2]) >= FEWEST]


def _by_label(records: Sequence[Record], task: Task) -> list[Group]:
    numbers: dict[Hashable, list[int]] = {}
    for number, record in enumerate(records):
        for label in dict.fromkeys(task.labels(record)):
            numbers.setdefault(label, []).append(number)
    if len(numbers) < 2:
        return []
    frequent = sorted(numbers, key=lambda label: -len(numbers[label]))[:SHOWN_LABELS]
    return [(LABEL, str(label), np.array(numbers[label])) for label in frequent]
