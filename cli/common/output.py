"""Printing: tables for a person on a terminal, plain columns for a pipe, JSON for a program.

All text on its way out passes here: a card, a registry or another process may have put control characters into it,
which are escaped. Commands print by nothing else; what a library prints passes through :func:`filtered`.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from adaptdock.plugins.escapes import JOINERS, escaped, json_text

if TYPE_CHECKING:
    from rich.console import Console

LINES = "\n\t" + JOINERS
"""What a stream may have, of characters that are not seen; cells and remarks may not."""


class _Filter:
    """A text stream that escapes what is written; all else is that of the stream behind it."""

    def __init__(self, stream: TextIO) -> None:
        self.behind = stream

    def write(self, text: str) -> int:
        self.behind.write(escaped(text, LINES))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


@contextmanager
def filtered() -> Iterator[None]:
    """Escape all that is written to standard output and standard error while the context is open."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Filter(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def unfilter() -> None:
    """Give a command of a plugin the streams themselves: it may draw on a terminal as it likes."""
    sys.stdout, sys.stderr = behind(sys.stdout), behind(sys.stderr)


def behind(stream: TextIO) -> TextIO:
    """Return the stream itself, for what draws with escape codes of its own and escapes the text between them."""
    return stream.behind if isinstance(stream, _Filter) else stream


def console(stream: TextIO) -> "Console":
    """Return what draws on a stream; text that it gets has to be escaped."""
    from rich.console import Console

    return Console(file=behind(stream), highlight=False)


def say(line: str = "") -> None:
    """Print a line on standard output."""
    print(escaped(line))


def answer_line(text: str) -> str:
    """Return the text of a prediction as one line; its tabs and the joiners of its script stay."""
    return escaped(text, "\t" + JOINERS)


ROOM = 120
"""Characters of a mapping that a table shows."""
SHOWN_VALUES = 4
"""Numbers that a cell of a table shows."""


def note(message: str) -> None:
    """Print a remark, which is one line, on standard error."""
    print(escaped(message), file=sys.stderr, flush=True)


@contextmanager
def waiting(message: str) -> Iterator[None]:
    """Show on a terminal what is waited for while the context is open; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    with console(sys.stderr).status(escaped(message)):
        yield


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON that standard output can encode, without a character that is not seen."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return json_text(value, indent, ascii_only=not encoding.startswith("utf"))


def show_json(value: Any) -> None:
    """Print one JSON document."""
    print(to_json(value, indent=2))


def show_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers stand on the right."""
    header = [escaped(name) for name in header]
    cells = [[escaped(_text(cell)) for cell in row] for row in rows]
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
    rows = [[escaped(name), escaped(_text(value))] for name, value in pairs.items()]
    if sys.stdout.isatty():
        _rich_table(("", ""), rows, [False, False])
        return
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"{name.ljust(width)}  {text}".rstrip())


def show_metrics(splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the metrics of each split, and those that a metric has by type or class in tables of their own."""
    scores = (name for metrics in splits.values() for name, value in metrics.items() if _is_number(value))
    names = list(dict.fromkeys(scores))
    show_table(["", *names], [[split, *(metrics.get(name, "") for name in names)] for split, metrics in splits.items()])
    for split, metrics in splits.items():
        for name, detail in metrics.items():
            if isinstance(detail, Mapping) and all(isinstance(row, Mapping) for row in detail.values()):
                columns = list(dict.fromkeys(column for row in detail.values() for column in row))
                print(f"\n{escaped(split)}, {escaped(name.replace('_', ' '))}:")
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


def few(values: Sequence[float | None]) -> str:
    """Return the first of several numbers for one cell of a table; None is not a number."""
    listed = " ".join("nan" if value is None else f"{value:.3g}" for value in values[:SHOWN_VALUES])
    return f"{listed} ..." if len(values) > SHOWN_VALUES else listed


def _rich_table(header: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if any(header) else None, show_header=any(header), pad_edge=False)
    for name, right in zip(header, numeric, strict=True):
        table.add_column(_verbatim(name), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(_verbatim(cell) for cell in row))
    console(sys.stdout).print(table)


def _verbatim(cell: str) -> str:
    """Return what rich shows as the cell is: no markup."""
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
