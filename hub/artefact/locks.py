"""Locks: one process at a time owns a folder or changes a file. The operating system frees the lock of a dead process.

The lock is advisory (``flock``; on Windows a locked byte) on a hidden file. The file holds the process id and the
machine's name for error messages, but its existence locks nothing: a file left by a killed process is taken over. On a
file system without locks (some network file systems) the work continues unprotected.
"""

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from adaptdock.errors import FileError, LockedError

NAME = ".adaptdock.lock"
BRIEF = 10.0
"""Seconds to wait for another process that changes a file."""
PAUSE = 0.02
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)

if sys.platform == "win32":
    import msvcrt

    FAR = 2**30
    """Offset of the locked byte: far behind the text, which other processes can still read."""

    def _lock(descriptor: int, shared: bool = False) -> None:
        if not shared:  # Windows has no shared lock here: processes that share a folder go unprotected
            os.lseek(descriptor, FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int, shared: bool = False) -> None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


@dataclass
class _Held:
    """A lock of this process: its thread, and how often the thread has acquired it."""

    descriptor: int
    thread: int
    folders: list[Path]
    """Folders created for the lock, the deepest first."""
    count: int = 1


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


@contextmanager
def owned(folder: Path, new: bool = False) -> Iterator[None]:
    """Own a folder until the block ends. A missing folder is created, and removed again if it is still empty.

    With ``new`` an existing folder raises :class:`FileExistsError`. Raises :class:`LockedError` at once if another
    process or thread owns the folder, :class:`FileError` if the folder is not writable.
    """
    lock = acquire(folder, new)
    try:
        yield
    finally:
        release(lock)


class SharedLock:
    """A share of a folder for as long as the object is not released; no process can own the folder meanwhile.

    The lock's file stays after the release: other processes may hold their share of it. Raises :class:`LockedError` for
    a folder that a process owns, :class:`FileError` if the folder is not writable.
    """

    def __init__(self, folder: Path) -> None:
        file = folder.resolve() / NAME
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _taken(file, shared=True)
        except OSError as error:
            raise FileError(folder, f"nothing can be written there: {error.strerror or error}") from None
        if descriptor is None:
            raise LockedError(folder, *_holder(file))
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Release the share. A second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def changing(path: Path, seconds: float = BRIEF) -> Iterator[None]:
    """Lock a file (or the content of a folder) for reading and writing until the block ends, waiting for others.

    Raises :class:`LockedError` after ``seconds``, :class:`FileError` if the place is not writable.
    """
    file = path.with_name(f".{path.name}{NAME}")
    lock = _acquire(path, file, seconds)
    try:
        yield
    finally:
        release(lock)


def acquire(folder: Path, new: bool = False) -> Path:
    """Own a folder and return its lock for :func:`release`; arguments and errors as in :func:`owned`."""
    return _acquire(folder, folder / NAME, 0.0, new)


def release(lock: Path) -> None:
    """Release a lock. Its file is deleted, and so are folders created for it that are still empty."""
    with _guard:
        held = _held[lock]
        held.count -= 1
        if held.count:
            return
        del _held[lock]
    if sys.platform != "win32":  # Windows cannot delete an open file; the remaining file is harmless
        with suppress(OSError):
            lock.unlink()
    os.close(held.descriptor)
    for folder in held.folders:
        with suppress(OSError):
            folder.rmdir()


def _acquire(place: Path, file: Path, seconds: float, new: bool = False) -> Path:
    file, thread, end = file.parent.resolve() / file.name, threading.get_ident(), time.monotonic() + seconds
    created: list[Path] = []
    while True:
        with _guard:
            held = _held.get(file)
            if held is not None and held.thread == thread and not new:
                held.count += 1
                return file
            try:
                created += _created(file.parent, new and not created)
                descriptor = None if held is not None else _taken(file)
            except OSError as error:
                if isinstance(error, FileExistsError) and new:
                    raise
                raise FileError(place, f"nothing can be written there: {error.strerror or error}") from None
            if descriptor is not None:
                _held[file] = _Held(descriptor, thread, list(reversed(created)))
                return file
        if time.monotonic() >= end:
            raise LockedError(place, *_holder(file))
        time.sleep(PAUSE)


def _created(folder: Path, new: bool) -> list[Path]:
    """Create a folder and return the missing parents and itself, from the top; with ``new`` it must not exist."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()][::-1]
    for place in missing[:-1]:
        place.mkdir(exist_ok=True)
    if missing or new:
        folder.mkdir(exist_ok=not new)
    return missing


def _taken(file: Path, shared: bool = False) -> int | None:
    """Return the descriptor of a freshly locked file, or None if another process has the lock."""
    while True:
        try:
            descriptor, writable = _opened(file)
        except FileNotFoundError:
            return None  # another process has just removed the folder in release()
        try:
            _lock(descriptor, shared)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(descriptor)
                if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                    return None
                raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                if shared and not writable:
                    return descriptor
                if writable:
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
                    return descriptor
                file.unlink()  # left by a killed process of another user
        os.close(descriptor)  # a lock on a deleted file locks nothing: the previous owner has removed it


def _opened(file: Path) -> tuple[int, bool]:
    """Open a lock file and tell whether it is writable: the file of another user's process is not."""
    flags = getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | flags, 0o644), True
    except PermissionError:
        if not file.exists():
            raise
        return os.open(file, os.O_RDONLY | flags), False


def _holder(file: Path) -> tuple[int | None, str]:
    """Return the id of the process with the lock (None if unknown), and the name of its machine if it is another."""
    try:
        number, _, host = file.read_text(encoding="utf-8").strip().partition(" ")
        return int(number), "" if host == socket.gethostname() else host
    except (OSError, ValueError):
        return None, ""
