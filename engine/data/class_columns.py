"""One-hot tables: a column of 0 and 1 for each class becomes the label, a name or a list of names."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from adaptdock.engine.data.columns import Columns
from adaptdock.engine.data.tables import Row, plain
from adaptdock.errors import DataError, UnknownNameError
from adaptdock.plugins.contracts import ClassLabelled
from adaptdock.plugins.toolkit.stored import stored

TRUE, FALSE = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})
TRUTH = TRUE | FALSE
MOSTLY = 0.9
"""Least share of 0 and 1 in a column of a class; other values in such a column are an error."""
NO_CLASSES = frozenset({"", "id", "idx", "index"})
SEPARATORS = frozenset("|,;#")
"""A name with one of these stays in a list, which nothing divides."""
SHOWN = 10


def with_labels(entries: Iterable[Row], columns: Columns) -> Iterable[Row]:
    """Return rows with a label made of the columns for classes, where a task reads such tables and there is no label.

    Raises :class:`DataError` for a value in such a column that is not 0 or 1.
    """
    task: Any = columns.task
    iterator = iter(entries)
    first = next(iterator, None)
    if first is None or not isinstance(task, ClassLabelled):
        return [] if first is None else chain([first], iterator)
    requested = columns.named.get(task.class_field, "")
    several = [name.strip() for name in requested.split(",")] if requested not in first[0] else []
    resolved = columns.of(*first)
    if task.class_field in resolved or (requested and len(several) < 2):
        return chain([first], iterator)
    rows = stored(chain([first], iterator))
    used = {*resolved.values()}
    classes = _requested(several, rows[0]) if several[1:] else _by_values(rows, used)
    if len(classes) < 2:
        return rows
    return _labelled(rows, classes, requested or columns.accepted(task.class_field)[0], columns)


def _labelled(rows: Sequence[Row], classes: Sequence[str], column: str, columns: Columns) -> Iterator[Row]:
    one_each = all(len(_classes_of(row, place, classes)) == 1 for row, place in rows)
    single = one_each and not SEPARATORS & set("".join(classes))
    more = ", ..." if len(classes) > SHOWN else ""
    each = "each row has one" if one_each else "a row may have several, or none"
    where = rows[0][1].rpartition(":")[0] or rows[0][1]
    columns.derived[column] = ",".join(classes)
    columns.say(
        f"{where}: the label is read from {len(classes)} columns of 0 and 1, one per class: "
        f"{', '.join(classes[:SHOWN])}{more}; {each} (--columns label=COLUMN,COLUMN names them)"
    )
    return _with_classes(rows, classes, column, single)


def _with_classes(rows: Iterable[Row], classes: Sequence[str], column: str, single: bool) -> Iterator[Row]:
    """Yield rows with their classes as a label: its only class, or a list of all."""
    for row, place in rows:
        labels = _classes_of(row, place, classes)
        yield {**row, column: labels[0] if single else labels}, place


def _classes_of(row: Mapping[str, Any], place: str, classes: Sequence[str]) -> list[str]:
    return [name for name in classes if _is_true(row.get(name), name, place)]


def _requested(names: Sequence[str], first: Row) -> list[str]:
    row, _ = first
    unknown = next((name for name in names if name not in row), None)
    if unknown is not None:
        raise UnknownNameError("column", unknown, list(row))
    return list(names)


def _by_values(rows: Sequence[Row], used: set[str]) -> list[str]:
    """Return the columns that hold 0 and 1, a few other values apart."""
    first, _ = rows[0]
    if "-1" in first:  # columns without names
        return []
    columns = [name for name in first if name not in used and plain(name) not in NO_CLASSES]
    counts = Counter(name for row, _ in rows for name in columns if _text(row.get(name)) in TRUTH)
    return [name for name in columns if counts[name] >= MOSTLY * len(rows)]


def _is_true(value: Any, name: str, place: str) -> bool:
    text = _text(value)
    if text not in TRUTH:
        raise DataError(
            f"{place}: the column {name!r} has 0 or 1 for its class, found {value!r:.60}. Write 0 or 1, or leave the "
            f"column out: --columns label=COLUMN,COLUMN names the columns of classes."
        )
    return text in TRUE


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip().casefold()
