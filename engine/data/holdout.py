"""Hold-out: the part of the training data that becomes the validation data where none is given.

The last training example of a label (a class, an entity type, a tag) is never held out. Where each record has one
label, labels are held out in proportion (stratified). Records of one group stay together.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from random import Random

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record, Task
from adaptdock.plugins.task_abilities import group as group_of

SHARES = (0.1, 0.1, 0.1, 0.2, 0.3, 0.5)
"""Shares of the training data that are tried in turn, each with another draw, until the task can use both parts."""
NAMED = 5
"""So many labels stand in a note."""

Labels = tuple[Hashable, ...]


def hold_out(
    records: Sequence[Record], seed: int, task: type[Task], labeller: Task | None = None
) -> tuple[dict[str, list[Record]], list[str]]:
    """Return training and validation records in their order, and notes on labels that validation lacks.

    ``labeller`` is the task with its options, which knows the labels of a raw record; without it there are none.
    Raises :class:`DataError` where no part can be held out that leaves the task with usable data.
    """
    groups = _groups(records, task)
    if len(groups) < 2:
        raise DataError(f"{len(records)} training records are too few to hold any out for validation")
    labels = [() if labeller is None else tuple(dict.fromkeys(labeller.labels(record))) for record in records]
    generator = Random(seed)
    refusal: DataError | None = None
    for share in SHARES:
        size = max(1, int(len(records) * share))
        held = _drawn(groups, labels, size, generator)
        if not held:
            raise DataError(
                f"no validation data given, and none of {len(records)} training records can be held out for it: each "
                f"is the only example of a label. Name the data with --train and --validation, or add examples"
            )
        splits = {
            "train": [record for number, record in enumerate(records) if number not in held],
            "validation": [record for number, record in enumerate(records) if number in held],
        }
        try:
            if labeller is not None:
                _try_out(labeller, splits)
        except DataError as error:
            refusal = refusal or error
            continue
        return splits, _lacking(labels, held)
    assert labeller is not None
    labeller.fit(labeller.clean(records, "train").records)  # raises where the fault is in the data, not in its division
    raise DataError(
        f"no validation data given, and no part of {len(records)} training records can be held out for it ({refusal}). "
        f"Name the data with --train and --validation"
    )


def _groups(records: Sequence[Record], task: type[Task]) -> list[list[int]]:
    """Return the numbers of the records of each group; a record without a group is one of its own."""
    groups: dict[Hashable, list[int]] = {}
    for number, record in enumerate(records):
        group = group_of(task, record)
        groups.setdefault(("alone", number) if group is None else ("group", group), []).append(number)
    return list(groups.values())


def _drawn(groups: Sequence[list[int]], labels: Sequence[Labels], size: int, generator: Random) -> set[int]:
    """Return the numbers of the held-out records: by label in proportion, then any that leave each label an example."""
    remaining = Counter(label for record_labels in labels for label in record_labels)
    order = generator.sample(groups, len(groups))
    quotas = _quotas(labels, remaining, size, generator)
    held: set[int] = set()
    held_counts: Counter[Hashable] = Counter()
    for limits in (quotas, remaining.copy()):
        for group in order:
            if len(held) >= size or len(held) + len(group) == len(labels):
                break
            counts = Counter(label for number in group for label in labels[number])
            within = all(
                remaining[label] > count and held_counts[label] + count <= limits[label]
                for label, count in counts.items()
            )
            if within and group[0] not in held:
                held.update(group)
                remaining -= counts
                held_counts += counts
    return held


def _quotas(labels: Sequence[Labels], counts: Counter[Hashable], size: int, generator: Random) -> Counter[Hashable]:
    """Return how many examples of each label are held out in proportion (largest remainder); else no limit."""
    if any(len(record_labels) != 1 for record_labels in labels):
        return counts
    exact = {label: size * count / len(labels) for label, count in counts.items()}
    quotas = Counter({label: math.floor(share) for label, share in exact.items()})
    order = sorted(generator.sample(list(exact), len(exact)), key=lambda label: quotas[label] - exact[label])
    quotas.update(order[: size - quotas.total()])
    return quotas


def _try_out(labeller: Task, splits: dict[str, list[Record]]) -> None:
    """Raise :class:`DataError` where the task cannot use one of the parts."""
    validation = labeller.clean(splits["validation"], "validation").records
    labeller.fit(labeller.clean(splits["train"], "train").records).check(validation, "validation")


def _lacking(labels: Sequence[Labels], held: set[int]) -> list[str]:
    """Say which labels the validation data has no example of."""
    measured = {label for number in held for label in labels[number]}
    lacking = sorted({str(label) for record_labels in labels for label in record_labels if label not in measured})
    if not lacking:
        return []
    examples = ", ".join(map(repr, lacking[:NAMED])) + (", ..." if len(lacking) > NAMED else "")
    label_count = len({label for record_labels in labels for label in record_labels})
    return [
        f"the held-out validation data has no example of {len(lacking)} of {label_count} labels, such as {examples}"
    ]
