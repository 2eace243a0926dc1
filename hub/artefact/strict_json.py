"""Strict JSON for files from outside: no duplicate keys, no NaN or infinity, and a limit of size."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from adaptdock.errors import FileError
from adaptdock.plugins.regular import open_regular, size_of

LIMIT = 64 * 2**20
"""Limit in bytes, far above any index or record."""

Model = TypeVar("Model", bound=BaseModel)


def parse(text: str | bytes, where: object, model: type[Model]) -> Model:
    """Return a validated model from JSON.

    Raises :class:`FileError`, naming ``where``, for the errors of :func:`parse_json` and for invalid fields.
    """
    try:
        return model.model_validate(parse_json(text, where))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise FileError(where, f"it is not valid: {place}: {first['msg'].removeprefix('Value error, ')}") from None


def parse_json(text: str | bytes, where: object) -> Any:
    """Return the value of a JSON text.

    Raises :class:`FileError`, naming ``where``, for invalid JSON, NaN, infinity, and a duplicate key in a table:
    readers differ in which of the two values they use.
    """
    if len(text) > LIMIT:
        raise FileError(where, f"it has {len(text):,} bytes; at most {LIMIT:,} are read")
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise FileError(where, f"not valid UTF-8 ({error.reason} at byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise FileError(where, f"not JSON that could be trusted: {error}") from None


def read(path: Path, model: type[Model]) -> Model:
    """Read and :func:`parse` a file; raise :class:`FileError` for an unreadable file."""
    return parse(_bytes(path), path, model)


def read_json(path: Path) -> Any:
    """Read and :func:`parse_json` a file; raise :class:`FileError` for an unreadable file."""
    return parse_json(_bytes(path), path)


def _bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            if size_of(stream) > LIMIT:
                raise FileError(path, f"it has {size_of(stream):,} bytes; at most {LIMIT:,} are read")
            return stream.read()
    except OSError as error:
        raise FileError(path, f"it cannot be read: {error.strerror or error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice in one table")
    return table


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")
