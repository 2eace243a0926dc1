"""Atomic writes of files and folders: after a crash or an error the old content is complete, or the new."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from itertools import count
from pathlib import Path
from typing import BinaryIO

from adaptdock.errors import FileError, TakenError

PARTIAL = ".partial"
"""Suffix of a temporary file."""


def write_atomically(path: Path, blob: bytes, replace: bool = True) -> None:
    """Write a file atomically: ``path`` keeps its old content until the new is on the disk; raises :class:`OSError`.

    After an error the old file is untouched and no temporary file remains. Without ``replace`` an existing file raises
    :class:`FileExistsError`.
    """
    with atomic_file(path, replace) as stream:
        stream.write(blob)


@contextmanager
def atomic_file(path: Path, replace: bool = True) -> Iterator[BinaryIO]:
    """Yield a stream into a temporary file, which atomically becomes ``path`` when the block ends without an error.

    Arguments and errors are those of :func:`write_atomically`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)  # mkstemp creates a private file
        if not replace:
            _reserve(path)  # Path.replace() would overwrite a file of another process
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_partial(path: Path) -> None:
    """Remove the temporary files that killed processes left of a file; no other process may be writing it."""
    for temporary in path.parent.glob(f".{escape(path.name)}.*{PARTIAL}"):
        temporary.unlink(missing_ok=True)


def _reserve(path: Path) -> None:
    """Create an empty file exclusively, so that no other process can create it; raise :class:`FileExistsError`."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def numbered(path: Path) -> Iterator[Path]:
    """Yield a path, then the same path with -2, -3 and so on after its stem: alternatives for a taken name."""
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))


@contextmanager
def atomic_folder(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield an empty temporary folder, which atomically becomes ``path`` when the block ends without an error.

    After an error the old folder is untouched and no temporary folder remains. Raises :class:`FileError`. Without
    ``replace`` an existing path raises :class:`TakenError` at the end, and the new folder is beside it.
    """
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL))
    except OSError as error:
        raise FileError(path, f"the folder cannot be made: {error.strerror or error}") from error
    try:
        yield temporary
        _settle(temporary)
        if replace:
            _take_place(temporary, path)
        else:
            _stand_beside(temporary, path)
    except OSError as error:
        raise FileError(path, f"the folder could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    path.rename(old)  # rename() replaces an empty folder
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _stand_beside(new: Path, path: Path) -> None:
    """Rename a folder to ``path`` or the next free name; raise :class:`TakenError` for any name but the first."""
    for place in numbered(path):
        try:
            new.rename(place)  # rename() replaces an empty folder, and fails for anything else
        except OSError:
            if not place.exists():
                raise
        else:
            if place != path:
                raise TakenError(path, place)
            return


def _settle(folder: Path) -> None:
    """Flush all files to the disk, and make them readable for everybody: mkdtemp creates private folders."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
