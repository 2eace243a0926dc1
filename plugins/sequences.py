"""What a person gives where a list is wanted: lists, tuples, arrays, columns and generators; no single text."""

from collections.abc import Mapping, Set
from typing import Any

from adaptdock.errors import UsageError


def listed(given: Any, what: str, example: str) -> list[Any]:
    """Return the values as a list; raise :class:`UsageError` for what is no sequence of values.

    A text is a sequence of characters, a mapping one of its keys, and a table one of its columns: nobody means those.
    ``what`` names the values in the plural; ``example`` shows a list of them.
    """
    if isinstance(given, str | bytes | bytearray | memoryview | Mapping | Set):
        raise UsageError(_refusal(given, what, example))
    dimensions = getattr(given, "ndim", 1)
    if isinstance(dimensions, int) and dimensions != 1:
        raise UsageError(f"{_refusal(given, what, example)}, of {dimensions} dimensions")
    try:
        values = iter(given)
    except TypeError:
        raise UsageError(_refusal(given, what, example)) from None
    return list(values)


def size(given: Any, what: str) -> int:
    """Return a number of things; raise :class:`UsageError` unless it is a whole number from 1."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise UsageError(f"the {what} is a whole number from 1; found {given!r:.60}")
    return given


def text(given: Any, what: str) -> str:
    """Return a text; raise :class:`UsageError` for anything else."""
    if not isinstance(given, str):
        raise UsageError(f"{what} is a text; found {type(given).__name__}: {given!r:.60}")
    return given


def _refusal(given: Any, what: str, example: str) -> str:
    shown = " ".join(f"{given!r:.60}".split())
    return f"the {what} are a list, such as {example}; found {type(given).__name__}: {shown}"
