"""Sources of images and sounds: a path, or the bytes themselves as a data URL (RFC 2397), both a text in a record.

A text survives JSON, a table and a temporary file, and is the same for files, for Python objects and for requests.
"""

import base64
import binascii
import re
from pathlib import Path
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.regular import read_regular

DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*)(;base64)?,", re.IGNORECASE)
MOST_SHOWN = 200
UNKNOWN = "application/octet-stream"
"""The media type of bytes whose format only their reader knows."""


def is_embedded(source: object) -> bool:
    """Return whether a source holds the bytes themselves."""
    return isinstance(source, str) and source[:5].lower() == "data:"


def embedded(content: bytes, kind: str) -> str:
    """Return bytes as a data URL; ``kind`` is the media type, such as ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def source_bytes(source: str, where: str = "an input") -> bytes:
    """Return the bytes of a source.

    Raises :class:`DataError` for a file that cannot be read, and a data URL that is not in base64.
    """
    if is_embedded(source):
        match = DATA_URL.match(source)
        if match is None or not match[3]:
            raise DataError(f"{where}: a data URL begins with 'data:TYPE;base64,'; found {source[:40]!r}")
        try:
            return base64.b64decode(source[match.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise DataError(f"{where}: the data URL is not valid base64: {source[:40]!r}...") from None
    try:
        return read_regular(Path(source).expanduser())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{where}: the file {source!r:.{MOST_SHOWN}} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None


def shown(source: str) -> str:
    """Return a source for people: a path as it is, of embedded bytes their type and size."""
    if not is_embedded(source):
        return source
    kind = source[5:].partition(",")[0].partition(";")[0] or "data"
    size = (len(source) - source.find(",") - 1) * 3 // 4
    return f"({kind}, {size} bytes)"


def written_source(value: Any, where: str) -> str:
    """Return the source of a value that is a path, a data URL, bytes, or a dict with ``bytes`` or ``path``.

    The dict is the form of the datasets library for files that it has not decoded. Raises :class:`DataError` for
    anything else.
    """
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray):
        return embedded(bytes(value), UNKNOWN)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise DataError(f"{where}: expected the path of a file, bytes or a data URL, found {value!r:.60}")
