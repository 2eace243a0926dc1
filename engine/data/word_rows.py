"""Tables with a word a row: the rows of a sentence become one record.

A column numbers or names the sentences, in each row or in the first row of each sentence alone. In a CSV or TSV file
without such a column, empty rows divide the sentences.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise
from typing import Any

from adaptdock.engine.data.columns import Columns
from adaptdock.engine.data.tables import Row, plain
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Task

SENTENCE = "sentence"
"""The name in ``--columns`` of the column with the sentence of each word."""
SENTENCES = frozenset(
    f"{noun}{end}" for noun in ("sentence", "sent") for end in ("", "id", "idx", "index", "number", "num", "no", "nr")
)
DOCUMENTS = frozenset(("document", "documentid", "doc", "docid", "docidx", "file", "filename"))
"""Columns whose change ends a sentence too: in some files each document counts its sentences from 0."""
LOOKED_AT = 200
"""First rows, of which each has to have one word."""

Starts = Callable[[Row, Row], bool]
"""Decides whether a sentence begins at the second of two rows."""


def with_sentences(entries: Iterable[Row], columns: Columns) -> Iterable[Row]:
    """Return rows with the words of a sentence each, where a task of words reads a table with a word a row.

    Raises :class:`DataError` where the column that was named for the sentences is not there.
    """
    if not reads_words(columns.task):
        return entries
    iterator = iter(entries)
    head = list(islice(iterator, LOOKED_AT))
    rows = chain(head, iterator)
    if not head:
        return rows
    requested = columns.named.get(SENTENCE)
    if requested is None and not _has_one_word_each(head, columns):
        return rows
    starts = _by_column(head[0], requested, columns) or _by_empty_rows(head, columns)
    return rows if starts is None else _joined(rows, starts)


def reads_words(task: type[Task]) -> bool:
    """Recognise a task whose usual files have a word a line."""
    return task.layout == "conll"


def words_field(task: type[Task]) -> list[str]:
    """Return the field with the words of a sentence; none of a task that reads texts."""
    return list(task.columns)[:1] if reads_words(task) else []


def _has_one_word_each(head: Sequence[Row], columns: Columns) -> bool:
    """Recognise rows of which each has a text without white space as its words."""
    column = columns.of(*head[0]).get(words_field(columns.task)[0])
    cells = [row.get(column, "") for row, _ in head] if column is not None else [None]
    return all(isinstance(cell, str) and len(cell.split()) < 2 and cell[:1] + cell[-1:] != "[]" for cell in cells)


def _by_column(first: Row, requested: str | None, columns: Columns) -> Starts | None:
    """Return how a column divides the rows into sentences; None where there is none."""
    row, place = first
    if requested is not None and requested not in row:
        raise DataError(
            f"{place}: no column {requested!r}, which --columns names for {SENTENCE}: there is {', '.join(row)}"
        )
    used = set(columns.of(row, place).values())
    free = [name for name in row if name not in used]
    column = requested or next((name for name in free if _letters(name) in SENTENCES), None)
    if column is None:
        return None
    document = next((name for name in free if name != column and _letters(name) in DOCUMENTS), column)
    columns.say(
        f"{place.rpartition(':')[0]}: a word a row; the column {column!r} divides the sentences "
        f"(--columns {SENTENCE}=COLUMN names another)"
    )

    def starts(before: Row, after: Row) -> bool:
        return any(_differs(before[0].get(name), after[0].get(name)) for name in (column, document))

    return starts


def _by_empty_rows(head: Sequence[Row], columns: Columns) -> Starts | None:
    """Return how empty rows divide the sentences; None where there are none."""

    def starts(before: Row, after: Row) -> bool:
        return _line(after[1]) > _line(before[1]) + 1

    if not columns.headed or not any(starts(before, after) for before, after in pairwise(head)):
        return None
    columns.say(f"{head[0][1].rpartition(':')[0]}: a word a row; empty rows divide the sentences")
    return starts


def _joined(rows: Iterable[Row], starts: Starts) -> Iterator[Row]:
    """Yield a row for each sentence: the cells of its rows as lists, at the place of the first."""
    sentence: list[Row] = []
    before: Row | None = None
    for entry in rows:
        row, place = entry
        if before is not None and starts(before, entry):
            yield _columns_of(sentence)
            sentence = []
        sentence.append(entry)
        before = entry if before is None else ({**row, **_carried(before[0], row)}, place)
    if sentence:
        yield _columns_of(sentence)


def _columns_of(sentence: Sequence[Row]) -> Row:
    first, place = sentence[0]
    return {name: [row.get(name) for row, _ in sentence] for name in first}, place


def _carried(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of the row before that the row after leaves empty."""
    return {name: before[name] for name, value in after.items() if _is_empty(value) and name in before}


def _differs(before: Any, after: Any) -> bool:
    """Recognise a cell with another value; an empty one is in the sentence of the cell above it."""
    return not _is_empty(after) and after != before


def _is_empty(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, plain(name)))


def _line(place: str) -> int:
    return int(place.rpartition(":")[2])
