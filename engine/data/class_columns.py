"""One-hot tables: a column of 0 and 1 for each class becomes the label, a name or a list of names."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from adaptdock.engine.data.columns import Columns
from adaptdock.engine.data.tables import Row, plain
from adaptdock.errors import DataError, UnknownNameError
from adaptdock.plugins.contracts import ClassLabelled

TRUE, FALSE = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})
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
    rows = [first, *iterator]
    used = {*resolved.values()}
    classes = _requested(several, rows[0]) if several[1:] else _by_values([row for row, _ in rows], used)
    if len(classes) < 2:
        return rows
    return _labelled(rows, classes, requested or columns.accepted(task.class_field)[0], columns)


def _labelled(rows: Sequence[Row], classes: Sequence[str], column: str, columns: Columns) -> list[Row]:
    names = [[name for name in classes if _is_true(row.get(name), name, place)] for row, place in rows]
    single = all(len(labels) == 1 for labels in names) and not SEPARATORS & set("".join(classes))
    more = ", ..." if len(classes) > SHOWN else ""
    each = "each row has one" if all(len(labels) == 1 for labels in names) else "a row may have several, or none"
    where = rows[0][1].rpartition(":")[0] or rows[0][1]
    columns.say(
        f"{where}: the label is read from {len(classes)} columns of 0 and 1, one per class: "
        f"{', '.join(classes[:SHOWN])}{more}; {each} (--columns label=COLUMN,COLUMN names them)"
    )
    return [
        ({**row, column: labels[0] if single else labels}, place)
        for (row, place), labels in zip(rows, names, strict=True)
    ]


def _requested(names: Sequence[str], first: Row) -> list[str]:
    row, _ = first
    unknown = next((name for name in names if name not in row), None)
    if unknown is not None:
        raise UnknownNameError("column", unknown, list(row))
    return list(names)


def _by_values(rows: Sequence[Mapping[str, Any]], used: set[str]) -> list[str]:
    """Return the columns that hold 0 and 1, a few other values apart."""
    if "-1" in rows[0]:  # columns without names
        return []
    columns = [name for name in rows[0] if name not in used and plain(name) not in NO_CLASSES]
    return [name for name in columns if sum(_text(row.get(name)) in TRUE | FALSE for row in rows) >= MOSTLY * len(rows)]


def _is_true(value: Any, name: str, place: str) -> bool:
    text = _text(value)
    if text not in TRUE | FALSE:
        raise DataError(
            f"{place}: the column {name!r} has 0 or 1 for its class, found {value!r:.60}. Write 0 or 1, or leave the "
            f"column out: --columns label=COLUMN,COLUMN names the columns of classes."
        )
    return text in TRUE


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip().casefold()
