"""Tables in text: CSV and tab-separated files, with or without a header."""

import csv
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
LARGEST_CELL = min(sys.maxsize, 2**31 - 1)
"""Characters of a cell; the library's own limit, 131,072, is less than some texts have."""
LINES_OF_A_ROW = 20
"""A row of the wrong width that has more lines probably begins with a quotation mark that is never closed."""

Row = tuple[Mapping[str, Any], str]
Say = Callable[[str], None]


def table(path: Path, texts: Texts, layout: str, numbered: bool, known: Collection[str], say: Say) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file. ``numbered`` says that there is no header: columns are 0, 1, ...

    ``known`` are names that a header may have, as :func:`plain` writes them; the delimiter is the usual one of the
    layout unless only another makes a column of such a name. Raises :class:`DataError` for two columns of one name
    and for rows of another width than the first.
    """
    for row, place in rows_or_errors(path, texts, layout, numbered, known, say):
        if isinstance(row, DataError):
            raise row
        yield row, place


def rows_or_errors(
    path: Path, texts: Texts, layout: str, numbered: bool, known: Collection[str], say: Say
) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    """Yield the rows of :func:`table`, and an error in place of a row that has another width than the first."""
    csv.field_size_limit(LARGEST_CELL)
    lines = (f"{line}\n" for _, line in texts.lines(path))
    head = []
    for line in lines:
        head.append(line)
        if line.strip():
            break
    usual = "," if layout == "csv" else "\t"
    delimiter = usual if numbered or not head else _delimiter(head[-1], usual, known)
    if delimiter != usual:
        say(f"{path}: columns are divided by {DELIMITERS[delimiter]}, as the header's are")
    if layout == "tsv" and delimiter == "\t":  # quotation marks are part of the text
        reader = csv.reader(chain(head, lines), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(chain(head, lines), delimiter=delimiter)
    yield from _rows(reader, path, numbered)


def _rows(reader: Any, path: Path, numbered: bool) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    header: list[str] | None = None
    before = 0
    try:
        for row in reader:
            first, before = before + 1, reader.line_num
            place = f"{path}:{reader.line_num}"
            if not row:
                continue
            if header is None:
                header = row
                if not numbered:
                    _check_header(header, place)
                    continue
            if len(row) != len(header):
                yield DataError(f"{place}: {_other_width(row, header, numbered, first, reader.line_num)}"), place
                continue
            yield by_number(row) if numbered else dict(zip(header, row, strict=True)), place
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def by_number(cells: Sequence[Any]) -> dict[str, Any]:
    """Name columns 0, 1, ... and, from the last, -1, -2, ..."""
    counted = {str(number): cell for number, cell in enumerate(cells)}
    return counted | {str(number - len(cells)): cell for number, cell in enumerate(cells)}


def plain(name: str) -> str:
    """Return the name of a column without what people vary: upper case, and white space around it."""
    return name.strip().casefold()


def header_of(line: str, known: Collection[str]) -> list[str]:
    """Return the columns that a line names if it is the header of a table with a known column; else none."""
    for delimiter in DELIMITERS:
        cells = _cells(line, delimiter)
        if len(cells) > 1 and len(set(map(plain, cells))) == len(cells) and any(plain(cell) in known for cell in cells):
            return [cell.strip() for cell in cells]
    return []


def _delimiter(header: str, usual: str, known: Collection[str]) -> str:
    """Return what divides the columns: the usual delimiter, unless only another makes a column of a known name."""

    def score(delimiter: str) -> int:
        cells = _cells(header, delimiter)
        return sum(plain(cell) in known for cell in cells) if len(cells) > 1 else 0

    if score(usual) or any(plain(cell) in known for cell in _cells(header, usual)):
        return usual
    best = max(DELIMITERS, key=score)
    return best if score(best) else usual


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])


def _check_header(header: Sequence[str], place: str) -> None:
    """Raise :class:`DataError` where two columns have the same name; columns without a name are no matter."""
    first: dict[str, int] = {}
    for number, name in enumerate(header, 1):
        if name.strip() and name in first:
            raise DataError(
                f"{place}: two columns are named {name!r}: column {first[name]} and column {number} (the first is 1). "
                f"Rename one of them in the header."
            )
        first[name] = number


def _other_width(row: Sequence[str], header: Sequence[str], numbered: bool, first: int, last: int) -> str:
    widths = f"{len(row)} columns, the {'first line' if numbered else 'header'} has {len(header)}"
    if last - first >= LINES_OF_A_ROW:
        return f"{widths}. The row begins at line {first}: probably a quotation mark there is never closed."
    if len(row) > len(header) and not numbered:
        return f"{widths}. A cell that holds the delimiter has to stand in double quotes."
    return widths
