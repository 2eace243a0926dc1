"""Hold-out: the part of the training data that becomes the validation data where none is given.

The last training example of a label (a class, an entity type, a tag) is never held out. Where each record has one
label, labels are held out in proportion (stratified). Records of one group, and records of one input, stay together:
the metric must not count a memorised training record as validation.
"""

import math
from array import array
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record, Task
from adaptdock.plugins.task_abilities import group as group_of
from adaptdock.plugins.toolkit.groups import Groups, connected
from adaptdock.plugins.toolkit.hashes import Hashes, hash_of, hashes_of
from adaptdock.plugins.toolkit.stored import picked

SHARES = (0.1, 0.1, 0.1, 0.2, 0.3, 0.5)
"""Shares of the training data that are tried in turn, each with another draw, until the task can use both parts."""
MOST = 2
"""Largest held-out part, as a multiple of its share: a group stays whole and may exceed the share."""
DUPLICATES = "duplicates of held-out validation records stay in the training data, as nothing else can be held out"
ONE_GROUP = (
    "all training records have one text, article or document in common, so single records of it are held out: "
    "validation may show better values than other texts will"
)
NAMED = 5
"""Number of labels that a note lists."""

Labels = tuple[Hashable, ...]
Held = NDArray[np.bool_]
"""Whether each record is held out."""


def hold_out(
    records: Sequence[Record], seed: int, task: type[Task], labeller: Task | None = None
) -> tuple[dict[str, Sequence[Record]], list[str]]:
    """Return training and validation records in their order, and notes on labels that validation lacks.

    ``labeller`` is the task with its options, which knows the labels of a raw record; without it there are none.
    Raises :class:`DataError` where no part can be held out that leaves the task with usable data.
    """
    together, groups, one_group = kept_together(records, task)
    if len(groups) < 2:
        raise DataError(
            f"no validation data given, and {len(records)} training records on one input are too few to hold any out "
            f"for it. Name the data with --train and --validation, or add examples"
        )
    labels = _labels(records, labeller)
    generator = Random(seed)
    refusal: DataError | None = None
    notes = [ONE_GROUP] if one_group else []
    attempts = [(together, notes), (groups, [*notes, DUPLICATES])] if len(together) < len(groups) else [(groups, notes)]
    for grouping, remarks in attempts:
        try:
            splits, held = _divided(records, grouping, labels, generator, labeller)
        except DataError as error:
            refusal = refusal if isinstance(refusal, UnusablePart) else error
            continue
        return splits, [*remarks, *_lacking(labels, held)]
    if labeller is not None and isinstance(refusal, UnusablePart):
        labeller.fit(labeller.clean(records, "train").records)  # raises if the data as a whole is at fault
    assert refusal is not None
    raise refusal


class KeptTogether(NamedTuple):
    """The record numbers of each set that stays together: by group or input, and by group alone.

    Where all records are of one group, such as the only article, both are by input alone.
    """

    together: Groups
    groups: Groups
    one_group: bool


def kept_together(records: Sequence[Record], task: Task | type[Task]) -> KeptTogether:
    """Return the sets of records that a division keeps whole."""
    of_group, of_input = _keys(task, records)
    groups = connected(of_group)
    if len(groups) > 1:
        return KeptTogether(connected(of_group, of_input), groups, one_group=False)
    inputs = connected(of_input)
    return KeptTogether(inputs, inputs, one_group=True)


def _labels(records: Sequence[Record], labeller: Task | None) -> Sequence[Labels]:
    """Return the labels of each record; equal ones are one object, so that a record takes 8 bytes.

    Raises :class:`DataError` for a record without a label that can be read, with what the task says of all records.
    """
    distinct: dict[Labels, Labels] = {}
    labels = (() if labeller is None else tuple(dict.fromkeys(labeller.labels(record))) for record in records)
    try:
        return [distinct.setdefault(record_labels, record_labels) for record_labels in labels]
    except DataError:
        if labeller is not None:
            labeller.clean(records, "train")
        raise


class UnusablePart(DataError):
    """A division of the training data that leaves the task without usable data."""


def _divided(
    records: Sequence[Record],
    groups: Groups,
    labels: Sequence[Labels],
    generator: Random,
    labeller: Task | None,
) -> tuple[dict[str, Sequence[Record]], Held]:
    """Return training and validation records in their order, and which records are held out.

    Raises :class:`DataError` where none can be held out, :class:`UnusablePart` where the task cannot use the parts.
    """
    refusal: DataError | None = None
    for share in SHARES:
        held = _drawn(groups, labels, max(1, int(len(records) * share)), generator)
        if not held.any():
            raise DataError(
                f"no validation data given, and none of {len(records)} training records can be held out for it: each "
                f"is the only example of a label. Name the data with --train and --validation, or add examples"
            )
        splits = {
            split: picked(records, array("q", np.flatnonzero(part).tobytes()))
            for split, part in (("train", ~held), ("validation", held))
        }
        try:
            if labeller is not None:
                _try_out(labeller, splits)
        except DataError as error:
            refusal = refusal or error
            continue
        return splits, held
    raise UnusablePart(
        f"no validation data given, and no part of {len(records)} training records can be held out for it ({refusal}). "
        f"Name the data with --train and --validation"
    )


def _keys(task: Task | type[Task], records: Sequence[Record]) -> tuple[Hashes, Hashes]:
    """Return hashes of the group and of the input of each record; records with an equal one stay together."""
    of_group, of_input = array("Q"), array("Q")
    for record in records:
        group = group_of(task, record)
        of_group.append(0 if group is None else hash_of(("group", str(group))))
        of_input.append(hash_of([_input(task, record)]))
    return hashes_of(of_group), hashes_of(of_input)


def _input(task: Task | type[Task], record: Record) -> str:
    """Return the input fields of a raw record, lower-cased and with single spaces; empty without such a field."""
    fields = [name for name in (*task.asks, *(task.words or ())[:1]) if name in record]
    values = [record[name] if isinstance(record[name], str) else repr(record[name]) for name in fields]
    return "\0".join(" ".join(value.split()) for value in values).casefold()


def _drawn(groups: Groups, labels: Sequence[Labels], size: int, generator: Random) -> Held:
    """Return which records are held out: by label in proportion, then any that leave each label an example."""
    remaining = Counter(label for record_labels in labels for label in record_labels)
    order = shuffled(len(groups), generator)
    quotas = _quotas(labels, remaining, size, generator)
    held = np.zeros(len(labels), dtype=np.bool_)
    held_total = 0
    held_counts: Counter[Hashable] = Counter()
    largest = MOST * size
    for limits, most in ((quotas, largest), (remaining.copy(), largest), (remaining.copy(), len(labels) - 1)):
        for group in map(groups.__getitem__, order) if most == largest or not held_total else ():
            if held_total >= size:
                break
            if held_total + len(group) > most:
                continue
            counts = Counter(label for number in group for label in labels[number])
            within = all(
                remaining[label] > count and held_counts[label] + count <= limits[label]
                for label, count in counts.items()
            )
            if within and not held[group[0]]:
                held[group] = True
                held_total += len(group)
                remaining -= counts
                held_counts += counts
    return held


def shuffled(count: int, generator: Random) -> Sequence[int]:
    """Return the numbers below ``count`` as ``generator.sample`` orders them, with 8 bytes for each."""
    numbers = array("q", range(count))
    for last in range(count - 1, -1, -1):
        place = generator.randrange(last + 1)
        numbers[last], numbers[place] = numbers[place], numbers[last]
    numbers.reverse()
    return numbers


def _quotas(labels: Sequence[Labels], counts: Counter[Hashable], size: int, generator: Random) -> Counter[Hashable]:
    """Return how many examples of each label are held out in proportion (largest remainder); else no limit."""
    if any(len(record_labels) != 1 for record_labels in labels):
        return counts
    exact = {label: size * count / len(labels) for label, count in counts.items()}
    quotas = Counter({label: math.floor(share) for label, share in exact.items()})
    order = sorted(generator.sample(list(exact), len(exact)), key=lambda label: quotas[label] - exact[label])
    quotas.update(order[: size - quotas.total()])
    return quotas


def _try_out(labeller: Task, splits: Mapping[str, Sequence[Record]]) -> None:
    """Raise :class:`DataError` where the task cannot use one of the parts."""
    validation = labeller.clean(splits["validation"], "validation").records
    labeller.fit(labeller.clean(splits["train"], "train").records).check(validation, "validation")


def _lacking(labels: Sequence[Labels], held: Held) -> list[str]:
    """Say which labels the validation data has no example of."""
    measured = {label for number in np.flatnonzero(held).tolist() for label in labels[number]}
    lacking = sorted({str(label) for record_labels in labels for label in record_labels if label not in measured})
    if not lacking:
        return []
    examples = ", ".join(map(repr, lacking[:NAMED])) + (", ..." if len(lacking) > NAMED else "")
    label_count = len({label for record_labels in labels for label in record_labels})
    return [
        f"the held-out validation data has no example of {len(lacking)} of {label_count} labels, such as {examples}"
    ]
