"""The error of a row without the column of a field: what was looked for, what there is, and the flags that name it."""

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from adaptdock.engine.data.columns import Columns, is_number, is_numbered
from adaptdock.engine.data.word_rows import words_field
from adaptdock.plugins.contracts import ColumnInspector, Task

LONGEST_NAME = 4
"""Words of a column's name; a longer cell of the first line is a text."""
SHOWN = 40
"""Characters of a column's name that a message shows."""


def missing_column(row: Mapping[str, Any], place: str, field: str, columns: Columns) -> str:
    """Return the message for a row in which ``columns`` find no column of ``field``."""
    task, requested = columns.task, columns.named.get(field)
    unused = _unused(row, place, columns)
    if is_numbered(row):
        numbers = [int(name) for name in row if is_number(name)]
        choice = _number_for(field, row, unused, task)
        return (
            f"{place}: no column {requested or 'known'!r} for {field}; columns are 0 to {max(numbers)}. Say which with "
            f"--columns {field}={choice}."
        )
    names = [_shown(name) for name in row if name not in columns.derived]
    accepted = ", ".join(name for name in columns.accepted(field) if not is_number(name))
    lacking = f"{place}: no column for {field}: looked for {accepted}, there is {', '.join(names) or 'none'}"
    explained = task.explain(row) if issubclass(task, ColumnInspector) else ""
    if explained:
        return f"{lacking}. {explained}"
    if columns.headed and any(is_number(name) or len(name.split()) > LONGEST_NAME for name in row):
        return (
            f"{lacking}. The first line looks like a record, not like a header: give numbers ({_numbers(row, task)})."
        )
    example = ""
    if (
        field in (*task.asks, *words_field(task))
        and (text := _longest(row, unused)) is not None
        and len(str(row[text]).split()) > 1
    ):
        example = f", such as --columns {quote(f'{field}={text}')}"
    headless = f" If the first line is not a header, give numbers ({_numbers(row, task)})." if columns.headed else ""
    return f"{lacking}. Say which with --columns {field}=COLUMN{example}.{headless}"


def _shown(name: str) -> str:
    """Return the name of a column for a message: without a header it may be a long text."""
    if not name.strip():
        return "one without a name"
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}…"


def _unused(row: Mapping[str, Any], place: str, columns: Columns) -> list[str]:
    """Return the columns with a name or a number from 0 that no field is read from."""
    used = {*columns.of(row, place).values(), *columns.derived}
    width = sum(not name.startswith("-") for name in row)
    numbers = {str(int(name) % width) for name in used if is_number(name)}
    return [name for name in row if name.strip() and name not in used | numbers and not name.startswith("-")]


def _longest(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the column with the longest text."""
    texts = [name for name in names if isinstance(row[name], str)]
    return max(texts, key=lambda name: len(row[name]), default=None)


def _number_for(field: str, row: Mapping[str, Any], unused: Sequence[str], task: type[Task]) -> str:
    """Return the number of a column that may hold a field: for a text the longest free column."""
    text = _longest(row, unused) if field in task.asks else None
    return text or next(iter(unused), "0")


def _numbers(first_line: Mapping[str, Any], task: type[Task]) -> str:
    """Return flags with the columns of a table by number, where the first line is a record.

    The longest cells are the texts. Fields that are found without a flag are left out.
    """
    cells = list(first_line)
    fields = [field for field in task.columns if field not in task.optional]
    texts = [field for field in fields if field in task.asks]
    by_length = sorted(range(len(cells)), key=lambda number: -len(cells[number]))[: len(texts)]
    numbers = dict(zip(texts, sorted(by_length), strict=False))
    rest = [number for number in range(len(cells)) if number not in numbers.values()]
    numbers |= dict(zip([field for field in fields if field not in texts], rest, strict=False))
    flags = [
        f"--columns {field}={number}" for field, number in numbers.items() if str(number) not in task.columns[field]
    ]
    return " ".join(flags) or f"--columns {fields[0]}=0"
