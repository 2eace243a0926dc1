"""JSON documents as rows: lists of objects or of lists, columns, indexed rows, splits by name."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from adaptdock.engine.data.folders import SPLITS
from adaptdock.engine.data.tables import Row, Say, by_number, plain
from adaptdock.errors import DataError

TOKENS = frozenset({"tokens", "words", "token", "form"})
"""An object with a flat list under such a name is one sentence, not columns."""
LISTS = ("data", "rows", "records", "examples", "items", "instances")
"""Names under which an object has the list of rows."""


def split_parts(document: Any) -> dict[str, str]:
    """Return split -> key of a document whose keys are names of splits; else nothing.

    Beside training data that is a list of rows, other keys may hold what describes the data.
    """
    if not isinstance(document, Mapping) or not document:
        return {}
    parts: dict[str, str] = {}
    further = 0
    for key, content in document.items():
        split = next((split for split, names in SPLITS.items() if plain(key) in names), None)
        if split is None:
            further += 1
        elif split in parts or not isinstance(content, list | Mapping):
            return {}
        else:
            parts[split] = key
    return parts if not further or _has_rows(document.get(parts.get("train", ""))) else {}


def _has_rows(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and isinstance(content[0], Mapping | list)


def document_rows(document: Any, name: str, split: str, known: Collection[str], say: Say) -> Iterator[Row]:
    """Yield the rows of a document; of one with splits those of ``split``.

    Lists become columns 0, 1, ..., or have the names of a first row that are among ``known``. Raises
    :class:`DataError` for a document of another shape.
    """
    parts = split_parts(document)
    if parts:
        if split not in parts:
            raise DataError(f"{name}: it has the splits {', '.join(parts.values())}, and no {split} data")
        unread = ", ".join(repr(key) for key in document if key not in parts.values())
        say(f"{name}: {split} is read from its part {parts[split]!r}{f'; {unread}: not read' if unread else ''}")
        yield from _rows(document[parts[split]], f"{name}[{parts[split]}]", known, say)
    else:
        yield from _rows(document, name, known, say)


def _rows(content: Any, name: str, known: Collection[str], say: Say) -> Iterator[Row]:
    entries = _entries(content, name, say)
    lists = sum(isinstance(row, list) for row in entries)
    if lists and lists == len(entries):
        yield from _of_lists(entries, name, known, say)
        return
    for number, row in enumerate(entries):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{name}: a JSON document is a list of objects or of lists, or an object of columns, of splits, or "
                f"with a list named 'data'; element {number} of this one is a {type(row).__name__}."
            )
        yield row, f"{name}[{number}]"


def _entries(content: Any, name: str, say: Say) -> Sequence[Any]:
    """Return the rows of a list or an object, in one of the shapes that pandas and others write."""
    if isinstance(content, list):
        return content
    if not isinstance(content, Mapping):
        raise DataError(f"{name}: a JSON document is a list or an object; this one is a {type(content).__name__}.")
    inner = next((content[key] for key in LISTS if isinstance(content.get(key), list)), None)
    if inner is not None and not _are_columns(content):
        header = content.get("columns")
        is_table = isinstance(header, list) and all(isinstance(row, list) for row in inner)
        return [header, *inner] if is_table else inner
    if _are_columns(content):
        say(f"{name}: read as columns ({', '.join(content)})")
        columns = [list(column.values()) if isinstance(column, Mapping) else column for column in content.values()]
        return [dict(zip(content, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if content and all(key.lstrip("-").isdecimal() and isinstance(row, list | dict) for key, row in content.items()):
        say(f"{name}: read as rows by number ({next(iter(content))!r} is the first)")
        return list(content.values())
    return [content]


def _are_columns(content: Mapping[str, Any]) -> bool:
    """Tell ``{"text": [...], "label": [...]}``, and the same with an object of numbered cells per column."""
    if len(content) < 2 or any(key.lstrip("-").isdecimal() for key in content):
        return False
    if any(plain(key) in TOKENS and _is_flat(column) for key, column in content.items()):
        return False
    if all(isinstance(column, list) for column in content.values()):
        return len({len(column) for column in content.values()}) == 1
    indices = [list(column) for column in content.values() if isinstance(column, Mapping)]
    is_numbered = len(indices) == len(content) and all(key.lstrip("-").isdecimal() for key in indices[0])
    return is_numbered and bool(indices[0]) and all(index == indices[0] for index in indices)


def _is_flat(column: Any) -> bool:
    return isinstance(column, list) and not any(isinstance(cell, list) for cell in column)


def _of_lists(entries: Sequence[list[Any]], name: str, known: Collection[str], say: Say) -> Iterator[Row]:
    header = entries[0]
    is_header = all(isinstance(cell, str) for cell in header) and any(plain(cell) in known for cell in header)
    for number, row in enumerate(entries):
        if len(row) != len(header):
            raise DataError(f"{name}[{number}]: a list of {len(row)}, where the first has {len(header)}: {row!r:.60}")
        if not is_header:
            yield by_number(row), f"{name}[{number}]"
        elif number:
            yield dict(zip(header, row, strict=True)), f"{name}[{number}]"
    if not is_header:
        say(f"{name}: its rows are lists of {len(header)}: columns are 0 to {len(header) - 1} (--columns names others)")
