"""Arguments of the public functions: what has another type is refused, with what is taken instead."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptdock.errors import UsageError


def of_type(given: Any, kind: type[Any], what: str) -> Any:
    """Return an argument; raise :class:`UsageError` unless it is of the kind. ``what`` says so: "rows are a list"."""
    if not isinstance(given, kind) or (isinstance(given, bool) and kind is not bool):
        raise UsageError(refusal(given, what))
    return given


def file_path(given: Any, what: str) -> Path:
    """Return a path; raise :class:`UsageError` unless it is a text or a :class:`Path` that a file can have."""
    if not isinstance(given, str | os.PathLike) or not isinstance(os.fspath(given), str):
        raise UsageError(refusal(given, f"{what} is a path, as a text or a Path"))
    if "\0" in os.fspath(given):
        raise UsageError(f"{what} holds a null character, which no path does: {given!r:.60}")
    return Path(given)


def mapping(given: Any, what: str, example: str) -> dict[str, Any]:
    """Return a mapping from names, empty for None; raise :class:`UsageError` for anything else."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise UsageError(refusal(given, f"the {what} are a mapping from names to values, such as {example}"))
    return dict(given)


def checked_number(given: Any, what: str, least: float = 0, whole: bool = True) -> Any:
    """Return a number; raise :class:`UsageError` unless it is one, and at least ``least``."""
    kinds = int if whole else (int, float)
    if isinstance(given, bool) or not isinstance(given, kinds) or not given >= least:
        raise UsageError(refusal(given, f"{what} is a {'whole number' if whole else 'number'} from {least:g}"))
    return given


def refusal(given: Any, what: str) -> str:
    """Say what is taken, and what was found instead."""
    shown = " ".join(f"{given!r:.60}".split())
    return f"{what}; found {type(given).__name__}: {shown}"
