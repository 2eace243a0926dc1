"""Arguments that are lists: lists, tuples, arrays, columns and generators are accepted, a single text is not."""

from collections.abc import Mapping, Set
from typing import Any

from adaptdock.errors import UsageError


def listed(value: Any, names: str, example: str) -> list[Any]:
    """Return the values as a list; raise :class:`UsageError` for anything but a sequence of values.

    Texts, mappings and tables are refused, although Python iterates over their characters, keys and columns.
    ``names`` is a plural noun for the values; ``example`` shows a list of them.
    """
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping | Set):
        raise UsageError(_refusal(value, names, example))
    dimensions = getattr(value, "ndim", 1)
    if isinstance(dimensions, int) and dimensions != 1:
        raise UsageError(f"{_refusal(value, names, example)}, of {dimensions} dimensions")
    try:
        values = iter(value)
    except TypeError:
        raise UsageError(_refusal(value, names, example)) from None
    return list(values)


def size(value: Any, name: str) -> int:
    """Return a size or count; raise :class:`UsageError` for anything but a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"the {name} is a whole number from 1; found {value!r:.60}")
    return value


def text(value: Any, name: str) -> str:
    """Return a text; raise :class:`UsageError` for anything else."""
    if not isinstance(value, str):
        raise UsageError(f"{name} is a text; found {type(value).__name__}: {value!r:.60}")
    return value


def _refusal(value: Any, names: str, example: str) -> str:
    shown = " ".join(f"{value!r:.60}".split())
    return f"the {names} are a list, such as {example}; found {type(value).__name__}: {shown}"
