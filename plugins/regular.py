"""Regular files, opened without blocking; a FIFO, device or socket is refused, as it may never have content."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
"""Without O_NONBLOCK, opening a FIFO waits for a process that writes to it."""
KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO (a named pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def irregular(mode: int) -> str | None:
    """Return the reason to refuse a file of this mode (``st_mode``), or None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    kind = next((kind for matches, kind in KINDS if matches(mode)), "of another kind")
    return f"it is {kind}, not a regular file"


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; links are followed.

    Raises :class:`OSError`, whose ``strerror`` is the reason, for anything else.
    """
    _check(path, Path(path).stat().st_mode)  # opening a device may already have an effect
    stream = os.fdopen(os.open(path, FLAGS), "rb")
    try:
        _check(path, os.fstat(stream.fileno()).st_mode)  # another file may have taken its place
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(path: str | Path) -> bytes:
    """Return the content of a regular file; raise :class:`OSError` as :func:`open_regular` does."""
    with open_regular(path) as stream:
        return stream.read()


def size_of(stream: BinaryIO) -> int:
    """Return the bytes of an opened file."""
    return os.fstat(stream.fileno()).st_size


def _check(path: str | Path, mode: int) -> None:
    reason = irregular(mode)
    if reason is not None:
        raise OSError(errno.EINVAL, reason, str(path))
