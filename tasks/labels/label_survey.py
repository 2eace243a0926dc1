"""The different labels of raw records: one reading shows their faults, and which records to change."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from adaptdock.plugins.contracts import Record
from adaptdock.tasks.labels.class_labels import CHOICES, is_missing
from adaptdock.tasks.labels.printed_lists import printed_list

LISTS = "a list"
"""The label under which all lists and objects are counted."""
LISTED = (list, dict, tuple)


@dataclass(frozen=True)
class LabelSurvey:
    """The counts of the raw labels, by type and value: 1, 1.0, True and "1" are four labels.

    ``annotated`` says whether a record has the labels of an annotation tool.
    """

    counts: Counter[tuple[type, Any]]
    annotated: bool

    @classmethod
    def of(cls, records: Iterable[Record]) -> "LabelSurvey":
        """Return the survey of records."""
        counts: Counter[tuple[type, Any]] = Counter()
        annotated = False
        for record in records:
            label = record.get("label")
            kind = type(label)
            if isinstance(label, LISTED):
                label = LISTS
            elif label != label:  # NaN differs from itself, and would be another label in each record
                label = math.nan
            counts[kind, label] += 1
            annotated = annotated or CHOICES in record
        return cls(counts, annotated)

    def __iter__(self) -> Iterator[Any]:
        """Yield the different labels, in the order of their first records."""
        return (label for _, label in self.counts)

    @property
    def total(self) -> int:
        """The number of records."""
        return self.counts.total()

    @property
    def lists(self) -> bool:
        """Whether a label is a list, or a printed one."""
        return any(
            label == LISTS if issubclass(kind, list | tuple) else kind is str and printed_list(label) is not None
            for kind, label in self.counts
        )

    @property
    def missing(self) -> int:
        """The number of records without a label."""
        return sum(count for (_, label), count in self.counts.items() if is_missing(label))
