"""Files and folders that are there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from adaptdock.errors import FileError, TakenError


def whole_file(path: Path, blob: bytes, replace: bool = True) -> None:
    """Write a file that takes the place of ``path`` when it is complete and on the disk; raises :class:`OSError`.

    When anything fails, what stood there is untouched and nothing half-written is left. Without ``replace``
    :class:`FileExistsError` is raised where there is a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(blob)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        if not replace:
            _reserve(path)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _reserve(path: Path) -> None:
    """Make an empty file, which no other process can have made; raise :class:`FileExistsError` where there is one."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def numbered(path: Path) -> Iterator[Path]:
    """Yield a path, then the same with -2, -3 and so on at the end of its stem: names for what finds one taken."""
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))


@contextmanager
def whole_folder(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` when the block ends well.

    What stood there is replaced only when the new content is complete and on the disk; when anything
    fails, it is untouched and nothing half-written is left. Raises :class:`FileError`, and without ``replace``
    :class:`TakenError` where something is there at the end: then the new folder is beside it.
    """
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
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
    path.rename(old)  # an empty folder gives way
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _stand_beside(new: Path, path: Path) -> None:
    """Give a folder its name, or the next one that is free; raise :class:`TakenError` where it is not the first."""
    for place in numbered(path):
        try:
            new.rename(place)  # which replaces an empty folder, and nothing else
        except OSError:
            if not place.exists():
                raise
        else:
            if place != path:
                raise TakenError(path, place)
            return


def _settle(folder: Path) -> None:
    """Bring what was written to the disk, readable for everyone as files mostly are."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
