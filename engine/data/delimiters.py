"""What divides the columns of a table in text: its first rows tell, or the line ``sep=;`` that Excel writes."""

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
LOOKED_AT = 20
"""Lines at the start of a table that show its delimiter."""
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""The line before the header from which Excel takes the delimiter."""


@dataclass(frozen=True)
class Delimiter:
    """A delimiter, the number of lines before the table, and the reason where it is not the usual one."""

    character: str
    skipped: int = 0
    reason: str = ""


def delimiter_of(head: Sequence[str], usual: str, numbered: bool, known: Collection[str]) -> Delimiter:
    """Return the delimiter of a table that begins with the lines ``head``.

    ``known`` are names that a header may have, as :func:`plain` writes them, and ``numbered`` says that there is no
    header. The usual delimiter is taken unless only another makes a column of a known name, or only another divides
    every row into the same number of columns.
    """
    first = next((number for number, line in enumerate(head) if line.strip()), None)
    if first is None:
        return Delimiter(usual)
    separator = SEPARATOR_LINE.fullmatch(head[first].strip(" \r\n"))
    if separator:
        return Delimiter(separator[1], first + 1, f"as its line {head[first].strip()!r} says")
    best = _by_header(head[first], usual, known) if not numbered else None
    if best:
        return Delimiter(best, reason="as the header's are")
    return Delimiter(_by_rows(head[first:], usual), reason="as only they make rows of equal width")


def plain(name: str) -> str:
    """Return the name of a column without what people vary: upper case, and white space around it."""
    return name.strip().casefold()


def cells_of(line: str, delimiter: str) -> list[str]:
    """Return the cells of one line; a line that is not CSV is one cell."""
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])
    except csv.Error:
        return [line]


def _by_header(header: str, usual: str, known: Collection[str]) -> str | None:
    """Return the delimiter that makes a column of a known name, the usual one if it does; None if none does."""

    def score(delimiter: str) -> int:
        cells = cells_of(header, delimiter)
        return sum(plain(cell) in known for cell in cells) if len(cells) > 1 else 0

    if score(usual) or any(plain(cell) in known for cell in cells_of(header, usual)):
        return usual
    best = max(DELIMITERS, key=score)
    return best if score(best) else None


def _by_rows(head: Sequence[str], usual: str) -> str:
    """Return the usual delimiter, unless only another divides all of several rows into two or more columns each."""
    for strict in (True, False):  # a quotation mark in the middle of a cell speaks against a delimiter
        for delimiter in dict.fromkeys((usual, *DELIMITERS)):
            rows = _rows(head, delimiter, strict)
            widths = {len(row) for row in rows}
            if len(widths) == 1 and min(widths) > 1 and (delimiter == usual or len(rows) > 1):
                return delimiter
    return usual


def _rows(head: Sequence[str], delimiter: str, strict: bool) -> list[list[str]]:
    """Return the rows of the first lines; none where they are not CSV. A last row that may continue is left out."""
    rows: list[list[str]] = []
    is_cut = len(head) >= LOOKED_AT
    reader = csv.reader(head, delimiter=delimiter, strict=strict)
    try:
        rows.extend(row for row in reader if row)
    except csv.Error:
        return rows if is_cut and reader.line_num == len(head) else []
    return rows[:-1] if is_cut else rows
