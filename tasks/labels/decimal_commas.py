"""Numbers in texts: with a decimal point, or with a decimal comma, as spreadsheets of many countries write them."""

import math
import re
from collections.abc import Sequence
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record
from adaptdock.plugins.toolkit.stored import stored

WITH_COMMA = re.compile(r"[-+]?(\d+|\d{1,3}(?:[.' \u00a0\u202f]\d{3})+),\d+")
"""1,5 and 1.234,5: a decimal comma, and points or spaces between thousands."""
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
"""1,234: a decimal comma, or a comma between thousands."""
GROUPING = re.compile(r"[.' \u00a0\u202f]")


def number_of(value: Any) -> float | None:
    """Return a finite number, or a text that is one; None for anything else."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # float(True) would be 1.0
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def with_points(records: Sequence[Record], split: str) -> tuple[Sequence[Record], list[str]]:
    """Return records in which labels with a decimal comma are numbers, with a note; others as they are.

    Raises :class:`DataError` where every comma could be one between thousands too, or where others have a decimal
    point.
    """
    count, first, point, is_ambiguous = 0, None, None, True
    for record in records:
        label = record.get("label")
        if _has_comma(label):
            count, first = count + 1, first or record
            is_ambiguous = is_ambiguous and THOUSANDS.fullmatch(str(label).strip()) is not None
        elif point is None and _has_point(label):
            point = record
    if first is None:
        return records, []
    where, text = str(first.get("where", split)), str(first["label"]).strip()
    if is_ambiguous:
        raise DataError(
            f"{where}: {text!r} may have a decimal comma, or one between thousands: write {text.replace(',', '.')} or "
            f"{text.replace(',', '')}"
        )
    if point is not None:
        raise DataError(
            f"{where}: {text!r} has a decimal comma, and {point['label']!r} at {point.get('where', split)} a decimal "
            f"point: write all numbers with a point"
        )
    note = f"{split}: {count} numbers have a decimal comma, such as {text!r}, read as {_with_point(text)}"
    return stored(
        {**record, "label": _with_point(record["label"])} if _has_comma(record.get("label")) else record
        for record in records
    ), [note]


def _has_comma(label: Any) -> bool:
    return isinstance(label, str) and WITH_COMMA.fullmatch(label.strip()) is not None


def _has_point(label: Any) -> bool:
    return isinstance(label, str) and "." in label and number_of(label) is not None


def _with_point(label: str) -> str:
    whole, _, fraction = label.strip().rpartition(",")
    return f"{GROUPING.sub('', whole)}.{fraction}"
