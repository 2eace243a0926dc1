"""Printing: tables for a person on a terminal, plain columns for a pipe, JSON for a program."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

ROOM = 120
"""Characters of a mapping that a table shows."""


def note(message: str) -> None:
    """Print a remark on standard error."""
    print(message, file=sys.stderr, flush=True)


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON that standard output can encode."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return json.dumps(value, ensure_ascii=not encoding.startswith("utf"), indent=indent)


def show_json(value: Any) -> None:
    """Print one JSON document."""
    print(to_json(value, indent=2))


def show_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers stand on the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    numeric = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    if sys.stdout.isatty():
        _rich_table(header, cells, numeric)
        return
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for line in [header, *cells] if any(header) else cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        print("  ".join(padded).rstrip())


def show_pairs(pairs: Mapping[str, Any]) -> None:
    """Print names and values, one pair a line."""
    if sys.stdout.isatty():
        _rich_table(("", ""), [[name, _text(value)] for name, value in pairs.items()], [False, False])
        return
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        print(f"{name.ljust(width)}  {_text(value)}".rstrip())


def show_metrics(splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the metrics of each split, and those that a metric has by type or class in tables of their own."""
    names = list(dict.fromkeys(name for found in splits.values() for name, value in found.items() if _is_number(value)))
    show_table(["", *names], [[split, *(found.get(name, "") for name in names)] for split, found in splits.items()])
    for split, found in splits.items():
        for name, detail in found.items():
            if isinstance(detail, Mapping) and all(isinstance(row, Mapping) for row in detail.values()):
                columns = list(dict.fromkeys(column for row in detail.values() for column in row))
                print(f"\n{split}, {name.replace('_', ' ')}:")
                rows = [[kind, *(row.get(column, "") for column in columns)] for kind, row in detail.items()]
                show_table(["", *columns], rows)


def count(number: int) -> str:
    """Return a number with its thousands divided."""
    return f"{number:,}"


def brief(value: Any) -> Any:
    """Return a value for one line of a table: of a mapping what is not empty, as far as there is room."""
    if not isinstance(value, Mapping):
        return value
    text = ", ".join(f"{key} {_text(inner)}" for key, inner in value.items() if inner not in (None, False, "", [], {}))
    return text if len(text) <= ROOM else f"{text[: ROOM - 3]}..."


def _rich_table(header: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if any(header) else None, show_header=any(header), pad_edge=False)
    for name, right in zip(header, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(_escape(cell) for cell in row))
    Console(highlight=False).print(table)


def _escape(cell: str) -> str:
    from rich.markup import escape

    return escape(cell)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    return "" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
