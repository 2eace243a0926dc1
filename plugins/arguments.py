"""Checks of the arguments of public functions; errors name the expected type and the received value."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptdock.errors import UsageError


def of_type(value: Any, kind: type[Any], expected: str) -> Any:
    """Return an argument; raise :class:`UsageError` for another type. ``expected``: "the rows are a list"."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(refusal(value, expected))
    return value


def file_path(value: Any, name: str) -> Path:
    """Return a path; raise :class:`UsageError` for anything but a valid path as a text or :class:`Path`."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise UsageError(refusal(value, f"{name} is a path, as a text or a Path"))
    if "\0" in os.fspath(value):
        raise UsageError(f"{name} holds a null character, which no path does: {value!r:.60}")
    return Path(value)


def mapping(value: Any, names: str, example: str) -> dict[str, Any]:
    """Return a mapping with names as keys, empty for None; raise :class:`UsageError` for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UsageError(refusal(value, f"the {names} are a mapping from names to values, such as {example}"))
    return dict(value)


def checked_number(value: Any, name: str, least: float = 0, whole: bool = True) -> Any:
    """Return a number; raise :class:`UsageError` for anything but a number from ``least`` up."""
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
        raise UsageError(refusal(value, f"{name} is a {'whole number' if whole else 'number'} from {least:g}"))
    return value


def refusal(value: Any, expected: str) -> str:
    """Return the error text with the expected and the received value."""
    shown = " ".join(f"{value!r:.60}".split())
    return f"{expected}; found {type(value).__name__}: {shown}"
