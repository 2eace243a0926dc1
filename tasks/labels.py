"""Labels of classes as tables hold them: names, numbers, printed lists, cells with nothing in them, wrong columns."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record
from adaptdock.tasks.printed import printed_list

WHOLE = re.compile(r"([+-]?\d+)\.0+")
CHOICES = "choices"
"""The field of a raw record with the labels that an annotation tool has for the text."""
NOT_A_NUMBER = frozenset({"nan", "<na>", "nat"})
"""What pandas writes where there is no label."""
NO_VALUE = frozenset({"none", "null", "na", "n/a", "nil", "-", "?"})
"""Names that are classes in some data, and in other data stand for no label."""
ENOUGH = 20
"""Records from which the number of classes tells that the column of the label is another one."""
NEARLY_ALL, MANY = 0.9, 0.5
"""Classes as a share of the records: refused, and said."""
SHOWN = 5
BITS = frozenset({"0", "1", "0.0", "1.0", "true", "false"})


def class_name(value: Any, where: str, known: Sequence[str] = ()) -> str:
    """Return the name of a class; a whole number that is written as a fraction loses it, unless ``known`` has it.

    Raises :class:`DataError` for what is no name: nothing, a list, an object, a printed list.
    """
    text = value.strip() if isinstance(value, str) else ""
    if text and text in known:
        return text
    if text and text.casefold() not in NOT_A_NUMBER:
        if printed_list(text) is not None:
            raise DataError(f"{where}: the label is a printed list, {text:.60}: {SEVERAL}")
        return _whole(text, known)
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return _whole(str(value), known)
    raise DataError(f"{where}: a label is a name or a number, found {value!r:.60}{_instead(value)}")


SEVERAL = "texts with several labels are for the task classification with --multi-label, which reads such lists"
SPANS = "spans of characters, as doccano and other annotation tools write them, are for the task ner"


def annotated_labels(records: Iterable[Record], split: str, several: bool) -> tuple[list[Record], list[str]]:
    """Return records in which the list of an annotation tool has become the label, and notes on those left out.

    Where a text has ``several`` labels the list is the label; else one without a name is left out.
    """
    labelled: list[Record] = []
    empty: list[str] = []
    for record in records:
        if CHOICES not in record:
            labelled.append(record)
        elif several or record[CHOICES]:
            labelled.append(with_label(record, several))
        else:
            empty.append(str(record.get("where", split)))
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
    """Tell a cell in which there is no label."""
    if isinstance(value, str):
        return not value.strip() or value.strip().casefold() in NOT_A_NUMBER
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_missing(records: Sequence[Record], split: str) -> None:
    """Raise :class:`DataError` with the first place and the number of records without a label."""
    missing = [record for record in records if is_missing(record.get("label"))]
    if missing:
        value = missing[0].get("label")
        what = "the label is missing" if value is None else f"a label is a name or a number, found {value!r:.60}"
        raise DataError(
            f"{missing[0].get('where', split)}: {what}; {len(missing)} of {len(records)} records of {split} have none. "
            f"Give them a label, or leave them out of the file."
        )


def label_notes(given: Sequence[Record], cleaned: Sequence[Record], split: str) -> list[str]:
    """Return what was changed in labels of one class, and what looks odd in them."""
    changed = [
        (str(before["label"]).strip(), after["label"])
        for before, after in zip(given, cleaned, strict=True)
        if str(before["label"]).strip() != after["label"]
    ]
    notes = []
    if changed:
        notes.append(
            f"{split}: {len(changed)} labels are whole numbers with a fraction, such as {changed[0][0]!r}, "
            f"read as {changed[0][1]!r}"
        )
    counts = Counter(record["label"] for record in cleaned)
    notes += [
        f"{split}: {name!r} is taken as a class, of {counts[name]} records, not as no label"
        for name in counts
        if name.casefold() in NO_VALUE
    ]
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(f"{name!r} ({counts[name]})" for name in names[:SHOWN])
            notes.append(f"{split}: the labels {shown} differ in upper case or spaces alone, and are taken as classes")
    return notes


def check_number_of_classes(records: Sequence[Record]) -> list[str]:
    """Return a note where classes are many; raise :class:`DataError` where nearly each record has its own."""
    counts = Counter(record["label"] for record in records)
    if len(records) < ENOUGH or len(counts) < MANY * len(records):
        return []
    some = ", ".join(repr(name[:60]) for name in list(counts)[:SHOWN])
    found = f"{len(counts)} different labels in {len(records)} training records, such as {some}"
    if len(counts) < NEARLY_ALL * len(records):
        return [f"{found}: if this is not the column of the label, --columns label=COLUMN names it"]
    way = "--task regression learns numbers; " if all(map(_is_number, counts)) else ""
    raise DataError(
        f"{found}: nearly each record has a class of its own, so this is probably not the column of the label. {way}"
        f"--columns label=COLUMN names another one; if they are classes, --labels lists them."
    )


def one_hot(row: Mapping[str, Any]) -> str:
    """Say that a row without a label has a column of 0 or 1 for each class; return an empty text if it has not."""
    columns = [name for name, value in row.items() if str(value).strip().casefold() in BITS]
    if len(columns) < 2:
        return ""
    return (
        f"The columns {', '.join(columns[:10])} hold 0 or 1, a column for each class (one-hot). Write the names of the "
        f"classes into one column, label, divided by | where a text has several (--multi-label)."
    )


def divided(value: Any, separator: str, where: str) -> list[Any]:
    """Return the labels of a text that may have several: a list, a printed list, or parts of a text."""
    if isinstance(value, str):
        parts = printed_list(value)
        return value.split(separator) if parts is None else parts
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{where}: several labels are a list, or a text divided by label_separator; found {value!r:.60}"
        )
    return list(value)


def count_printed(records: Iterable[Record], split: str) -> list[str]:
    """Say how many of the labels were printed lists."""
    count = sum(isinstance(record["label"], str) and printed_list(record["label"]) is not None for record in records)
    return [f"{split}: the labels of {count} records are printed lists, and were read as lists"] if count else []


def _whole(text: str, known: Sequence[str]) -> str:
    match = WHOLE.fullmatch(text)
    return match[1] if match and text not in known else text


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
