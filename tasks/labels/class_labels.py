"""Class labels in tables: names, numbers, printed lists, empty cells, wrong columns."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.labels.printed_lists import BRACKETS, printed_list

WHOLE = re.compile(r"([+-]?\d+)\.0+")
CHOICES = "choices"
"""The field of a raw record with the labels that an annotation tool has for the text."""
NOT_A_NUMBER = frozenset({"nan", "<na>", "nat"})
"""Texts that pandas writes for a missing label."""
NO_VALUE = frozenset({"none", "null", "na", "n/a", "nil", "-", "?"})
"""Names that are a class in some data sets, and a missing label in others."""
ENOUGH = 20
"""Fewest records whose number of classes can reveal a wrong label column."""
NEARLY_ALL, MANY = 0.9, 0.5
"""Classes as a share of the records, from which the column is refused, and from which a note questions it."""
SHOWN = 5


def class_name(value: Any, where: str, classes: Sequence[str] = ()) -> str:
    """Return the name of a class; ``2.0`` becomes ``2``, unless it is in ``classes``.

    Raises :class:`DataError` for a value that is not a name: nothing, a list, an object, a printed list.
    """
    text = value.strip() if isinstance(value, str) else ""
    if text:
        name = text if text in classes else _name(text)
        if name:
            return name
        if printed_list(text) is not None:
            raise DataError(f"{where}: the label is a printed list, {text:.60}: {SEVERAL}")
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return _whole(str(value), classes)
    raise DataError(f"{where}: a label is a name or a number, found {value!r:.60}{_instead(value)}")


@lru_cache(maxsize=1024)  # most data has few labels
def _name(text: str) -> str:
    """Return the name of a class that a text is, without the fraction of a whole number; empty for another text."""
    is_name = text.casefold() not in NOT_A_NUMBER and printed_list(text) is None
    return _whole(text, ()) if is_name else ""


def only_name(label: Any) -> Any:
    """Return the name in a list of one name, printed or not; any other label as it is."""
    if isinstance(label, str) and label.lstrip()[:1] not in BRACKETS:
        return label
    names = _names(label)
    return names[0] if names is not None and len(names) == 1 else label


SEVERAL = "texts with several labels are for the task classification with --multi-label, which reads such lists"
SPANS = "spans of characters, as doccano and other annotation tools write them, are for the task ner"


def annotated_labels(records: Sequence[Record], split: str, several: bool) -> tuple[Sequence[Record], list[str]]:
    """Return records in which the list of an annotation tool has become the label, and notes on those left out.

    Where a text has ``several`` labels the list is the label; else one without a name is left out.
    """
    empty = [str(record.get("where", split)) for record in records if not several and record.get(CHOICES) == []]
    labelled = stored(with_label(record, several) for record in records if several or record.get(CHOICES) != [])
    if not empty:
        return labelled, []
    return labelled, [f"{split}: {len(empty)} texts have been annotated with no label and are left out: {empty[0]}"]


def with_label(record: Record, several: bool) -> Record:
    """Return a record whose list of labels from an annotation tool is its label: the list, or its only name."""
    if CHOICES not in record:
        return record
    names = record[CHOICES]
    rest = {name: value for name, value in record.items() if name != CHOICES}
    return rest | {"label": names[0] if len(names) == 1 and not several else list(names)}


def is_missing(value: Any) -> bool:
    """Return whether a cell has no label."""
    if isinstance(value, str):
        return not value.strip() or value.strip().casefold() in NOT_A_NUMBER
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_missing(records: Sequence[Record], split: str) -> None:
    """Raise :class:`DataError` with the number of records without a label and the place of the first."""
    missing = sum(is_missing(record.get("label")) for record in records)
    if missing:
        first = next(record for record in records if is_missing(record.get("label")))
        value = first.get("label")
        problem = "the label is missing" if value is None else f"a label is a name or a number, found {value!r:.60}"
        raise DataError(
            f"{first.get('where', split)}: {problem}; {missing} of {len(records)} records of {split} have "
            f"none. Give them a label, or leave them out of the file; if they belong to no class, --out-of-scope NAME "
            f"keeps them out of the training and measures them."
        )


def check_one_each(records: Sequence[Record], split: str) -> None:
    """Raise :class:`DataError` where records do not have one label each: none, or a list of another length than 1."""
    _check_lists(records, split)
    check_missing(records, split)


def _check_lists(records: Sequence[Record], split: str) -> None:
    """Raise :class:`DataError` where labels are lists, unless each label is a list with exactly one name."""
    lists = [
        (str(record.get("where", split)), names)
        for record in records
        if (names := _names(record.get("label"))) is not None
    ]
    unlike = [(where, names) for where, names in lists if len(names) != 1]
    if not unlike and lists and len(lists) < len(records):
        where, names = lists[0]
        raise DataError(f"{where}: the label is a list, {names}, and other records have a name: {SEVERAL}")
    if not unlike:
        return
    where, names = unlike[0]
    labels = " and ".join(map(repr, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
    raise DataError(
        f"{where}: the text has {f'{len(names)} labels, {labels}' if names else 'no label'}; so {len(unlike)} of "
        f"{len(lists)} lists of labels in {split} do not have exactly one. --multi-label lets a text have several "
        f"labels, or none."
    )


def _names(label: Any) -> list[Any] | None:
    """Return the names of a list of labels, printed or not; None for anything else."""
    names = printed_list(label) if isinstance(label, str) else label
    return list(names) if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else None


def label_notes(raw: Mapping[tuple[type, Any], int], counts: Mapping[str, int], split: str) -> list[str]:
    """Return notes on changed labels, and on labels that look like a mistake.

    ``raw`` counts the labels as they are in the data, by type and value, and ``counts`` the classes read from them.
    """
    written = {key: str(key[1]).strip() for key in raw if not is_missing(key[1]) and _names(key[1]) is None}
    read = {text: class_name(text, split, list(counts)) for text in written.values()}
    changed = {key: text for key, text in written.items() if read[text] != text}
    notes = []
    if changed:
        first, total = next(iter(changed.values())), sum(raw[key] for key in changed)
        notes.append(
            f"{split}: {total} labels are whole numbers with a fraction, such as {first!r}, read as {read[first]!r}"
        )
    notes += [
        f"{split}: {name!r} is taken as a class, of {counts[name]} records, not as a missing label"
        for name in counts
        if name.casefold() in NO_VALUE
    ]
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(f"{name!r} ({counts[name]})" for name in names[:SHOWN])
            notes.append(f"{split}: the labels {shown} differ only in case or spaces, and are taken as classes")
    return notes


def check_number_of_classes(counts: Counter[str]) -> list[str]:
    """Return a note for many classes; raise :class:`DataError` where nearly every record has its own class."""
    records = counts.total()
    if records < ENOUGH or len(counts) < MANY * records:
        return []
    some = ", ".join(repr(name[:60]) for name in list(counts)[:SHOWN])
    problem = f"{len(counts)} different labels in {records} training records, such as {some}"
    if len(counts) < NEARLY_ALL * records:
        return [f"{problem}: if this is not the column of the label, --columns label=COLUMN names it"]
    way_out = "--task regression learns numbers; " if all(map(_is_number, counts)) else ""
    raise DataError(
        f"{problem}: nearly each record has a class of its own, so this is probably not the column of the label. "
        f"{way_out}--columns label=COLUMN names another one; if they are classes, --labels lists them."
    )


def divided(value: Any, separator: str, where: str) -> list[Any]:
    """Return the list of a text's labels, from a list, a printed list, or a text with separators."""
    if isinstance(value, str):
        parts = printed_list(value)
        return value.split(separator) if parts is None else parts
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{where}: several labels are a list, or a text divided by label_separator; found {value!r:.60}"
        )
    return list(value)


def count_printed(records: Iterable[Record], split: str) -> list[str]:
    """Return a note with the number of labels that were printed lists."""
    count = sum(isinstance(record["label"], str) and printed_list(record["label"]) is not None for record in records)
    return [f"{split}: the labels of {count} records are printed lists, and were read as lists"] if count else []


def _whole(text: str, classes: Sequence[str]) -> str:
    match = WHOLE.fullmatch(text)
    return match[1] if match and text not in classes else text


def _instead(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f": {SPANS if any(isinstance(part, list | dict) for part in value) else SEVERAL}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
