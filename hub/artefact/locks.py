"""Locks: one process at a time owns a folder, or changes a file. The operating system frees the lock of a dead process.

The lock is an advisory one (``flock``; on Windows a locked byte) on a hidden file, which holds the id of the process
and the name of the machine for error messages. The file itself locks nothing: one that a killed process has left is
taken over. A file system without such locks (some network file systems) gives none, and the work goes on unprotected.
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

from adaptdock.errors import FileError, LockedError

NAME = ".adaptdock.lock"
BRIEF = 10.0
"""Seconds to wait for another process that changes a file, which takes it a moment."""
PAUSE = 0.02
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)

if sys.platform == "win32":
    import msvcrt

    FAR = 2**30
    """The byte that is locked: far from the text, which stays readable."""

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@dataclass
class _Held:
    """A lock of this process: the thread that has it, and how often."""

    descriptor: int
    thread: int
    folders: list[Path]
    """Folders that were made for it."""
    count: int = 1


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


@contextmanager
def owned(folder: Path, new: bool = False) -> Iterator[None]:
    """Own a folder until the block ends; it is made where it is missing, and removed if it is still empty.

    ``new``: raise :class:`FileExistsError` where it exists already. Raises :class:`LockedError` at once where another
    process (or thread) owns it, :class:`FileError` where nothing can be written there.
    """
    lock = acquire(folder, new)
    try:
        yield
    finally:
        release(lock)


@contextmanager
def changing(path: Path, seconds: float = BRIEF) -> Iterator[None]:
    """Be the only one to read and write a file (or a folder's content) until the block ends; wait a moment for others.

    Raises :class:`LockedError` after ``seconds``, :class:`FileError` where nothing can be written there.
    """
    file = path.with_name(f".{path.name}{NAME}")
    lock = _acquire(path, file, seconds)
    try:
        yield
    finally:
        release(lock)


def acquire(folder: Path, new: bool = False) -> Path:
    """Own a folder until :func:`release` gets what this returns; all else as with :func:`owned`."""
    return _acquire(folder, folder / NAME, 0.0, new)


def release(lock: Path) -> None:
    """Give up a lock; the file goes, and folders that were made for it and are still empty."""
    with _guard:
        held = _held[lock]
        held.count -= 1
        if held.count:
            return
        del _held[lock]
    if sys.platform != "win32":  # which deletes no open file; a file that stays does no harm
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
    """Make a folder and return those that were missing, from the top; ``new``: it must be missing itself."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()][::-1]
    for place in missing[:-1]:
        place.mkdir(exist_ok=True)
    if missing or new:
        folder.mkdir(exist_ok=not new)
    return missing


def _taken(file: Path) -> int | None:
    """Return the descriptor of a file that is locked now, or None where another process has it."""
    while True:
        try:
            descriptor, writable = _opened(file)
        except FileNotFoundError:
            return None  # its folder was removed by a process that is ending
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(descriptor)
                if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                    return None
                raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                if writable:
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
                    return descriptor
                file.unlink()  # left by a process of another user that was killed
        os.close(descriptor)  # the process that had it has removed it meanwhile


def _opened(file: Path) -> tuple[int, bool]:
    """Open a lock's file, and tell whether it can be written: not where another user's process has made it."""
    flags = getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | flags, 0o644), True
    except PermissionError:
        if not file.exists():
            raise
        return os.open(file, os.O_RDONLY | flags), False


def _holder(file: Path) -> tuple[int | None, str]:
    """Return the id of the process that has a lock, None where it is not known, and another machine's name."""
    try:
        number, _, host = file.read_text(encoding="utf-8").strip().partition(" ")
        return int(number), "" if host == socket.gethostname() else host
    except (OSError, ValueError):
        return None, ""
