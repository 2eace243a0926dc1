"""Tables in text: CSV and tab-separated files, with or without a header."""

import csv
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from adaptdock.engine.data.delimiters import DELIMITERS, LOOKED_AT, cells_of, delimiter_of
from adaptdock.engine.data.delimiters import plain as plain
from adaptdock.engine.data.packed import data_suffix
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError

LARGEST_CELL = min(sys.maxsize, 2**31 - 1)
"""Characters of a cell; the library's own limit, 131,072, is less than some texts have."""
LINES_OF_A_ROW = 20
"""A row of the wrong width that has more lines probably begins with a quotation mark that is never closed."""

Row = tuple[Mapping[str, Any], str]
Say = Callable[[str], None]


def table(path: Path, texts: Texts, layout: str, numbered: bool, known: Collection[str], say: Say) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file. ``numbered`` says that the header is missing: columns are 0, 1, ...

    ``known`` are names that a header may have, as :func:`plain` writes them, for :func:`delimiter_of`.
    Rows of several columns without any value, as spreadsheets leave them, are left out and counted. Raises
    :class:`DataError` for two columns of one name and for rows of another width than the first.
    """
    blank: list[str] = []
    for row, place in rows_or_errors(path, texts, layout, numbered, known, say):
        if isinstance(row, DataError):
            raise row
        if len(row) > 1 and not any(map(str.strip, row.values())):
            blank.append(place)
            continue
        yield row, place
    if blank:
        say(f"{path}: {len(blank)} rows have no value in any column and are left out, such as {blank[0]}")


def rows_or_errors(
    path: Path, texts: Texts, layout: str, numbered: bool, known: Collection[str], say: Say
) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    """Yield the rows of :func:`table`, and an error in place of a row that has another width than the first."""
    csv.field_size_limit(LARGEST_CELL)
    lines = (f"{line}\n" for _, line in texts.lines(path))
    head = list(islice(lines, LOOKED_AT))
    usual = "," if layout == "csv" else "\t"
    delimiter = delimiter_of(head, usual, numbered, known)
    if delimiter.character != usual:
        name = DELIMITERS.get(delimiter.character, repr(delimiter.character))
        say(f"{path}: columns are divided by {name}, {delimiter.reason}")
    # quotation marks in files with tabs are part of the text, unless the suffix says that a program wrote CSV
    is_plain = delimiter.character == "\t" and (layout == "tsv" or data_suffix(path) != ".csv")
    table_lines, character = chain(head[delimiter.skipped :], lines), delimiter.character
    if is_plain:
        reader = csv.reader(table_lines, delimiter=character, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(table_lines, delimiter=character)
    yield from _rows(reader, path, numbered, delimiter.skipped)


def _rows(reader: Any, path: Path, numbered: bool, skipped: int) -> Iterator[tuple[Mapping[str, Any] | DataError, str]]:
    """Yield the rows, each with the place of its first line; ``skipped`` counts the lines before the table."""
    header: list[str] | None = None
    before, name = skipped, str(path)
    try:
        for row in reader:
            first, before = before + 1, skipped + reader.line_num
            place = f"{name}:{first}"
            if not row:
                continue
            if header is None:
                header = row
                if not numbered:
                    _check_header(header, place)
                    continue
            if len(row) != len(header):
                yield DataError(f"{place}: {_other_width(row, header, numbered, first, before)}"), place
                continue
            yield by_number(row) if numbered else dict(zip(header, row, strict=True)), place
    except csv.Error as error:
        raise DataError(f"{path}:{skipped + reader.line_num}: not CSV: {error}") from None


def by_number(cells: Sequence[Any]) -> dict[str, Any]:
    """Name columns 0, 1, ... and, from the last, -1, -2, ..."""
    counted = {str(number): cell for number, cell in enumerate(cells)}
    return counted | {str(number - len(cells)): cell for number, cell in enumerate(cells)}


def header_of(line: str, known: Collection[str]) -> list[str]:
    """Return the columns that a line names if it is the header of a table with a known column; else none."""
    for delimiter in DELIMITERS:
        cells = cells_of(line, delimiter)
        if len(cells) > 1 and len(set(map(plain, cells))) == len(cells) and any(plain(cell) in known for cell in cells):
            return [cell.strip() for cell in cells]
    return []


def _check_header(header: Sequence[str], place: str) -> None:
    """Raise :class:`DataError` where two columns have the same name; columns without a name may repeat."""
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
        lines = f"The row begins at line {first}: probably a quotation mark there is never closed"
        return f"{widths}. {lines} (the row ends at line {last})."
    if len(row) > len(header) and not numbered:
        return f"{widths}. A cell that holds the delimiter has to be in double quotes."
    return widths
