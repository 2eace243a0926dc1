"""Wheels with adapter files and without code: read without installation, and written.

A distribution of adapter files has entry points in the group ``adaptdock.files``; each names a folder in it.
"""

import configparser
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.parser import BytesHeaderParser
from pathlib import Path, PurePosixPath

from adaptdock.errors import FileError, TrustError
from adaptdock.hub.artefact.file import read_header_of
from adaptdock.hub.registry.index import Entry, make_entry
from adaptdock.plugins.files import SUFFIX
from adaptdock.plugins.registry import GROUPS
from adaptdock.plugins.regular import open_regular

CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".pth", ".exe", ".sh", ".bat")
MEMBER_LIMIT = 2**34
"""Largest unpacked file in bytes, against zip bombs."""


def entries(wheel: Path) -> Iterator[Entry]:
    """Yield an entry for each adapter file in a wheel; nothing for a wheel without adapter files.

    Raises :class:`TrustError` for a wheel that also carries code, :class:`FileError` for a damaged wheel.
    """
    with _opened(wheel) as archive:
        names = [info.filename for info in archive.infolist()]
        metadata = _metadata(wheel, archive, names)
        if not _declares_files(archive, names):
            return
        _refuse_code(wheel, archive, names)
        for name in names:
            if name.endswith(SUFFIX):
                blob = archive.read(name)
                where = f"{wheel}: {name}"
                publisher = metadata.get("Author") or metadata.get("Name", "")
                card = read_header_of(blob, where).card
                yield make_entry(where, card, blob, f"{wheel.name}/{name}", publisher=publisher)


def member(wheel: Path, name: str) -> bytes:
    """Return the content of a file in a wheel; raise :class:`FileError` for an unknown name."""
    with _opened(wheel) as archive:
        try:
            return archive.read(name)
        except KeyError:
            raise FileError(wheel, f"it holds no {name}") from None


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(open_regular(wheel))))
        except (OSError, zipfile.BadZipFile) as error:
            raise FileError(wheel, f"it is not a readable wheel: {error}") from None
        for info in archive.infolist():
            path = PurePosixPath(info.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
                raise TrustError(f"{wheel}: {info.filename!r} in it leads out of the folder that it is unpacked to")
            if info.file_size > MEMBER_LIMIT:
                raise TrustError(f"{wheel}: {info.filename} in it would have {info.file_size:,} bytes")
        yield archive


def _metadata(wheel: Path, archive: zipfile.ZipFile, names: list[str]) -> dict[str, str]:
    name = next((name for name in names if name.endswith(".dist-info/METADATA")), None)
    if name is None:
        raise FileError(wheel, "it has no METADATA: it is not a wheel")
    return dict(BytesHeaderParser().parsebytes(archive.read(name)).items())


def _declares_files(archive: zipfile.ZipFile, names: list[str]) -> bool:
    name = next((name for name in names if name.endswith(".dist-info/entry_points.txt")), None)
    if name is None:
        return False
    points = configparser.ConfigParser(delimiters=("=",))
    points.read_string(archive.read(name).decode())
    return points.has_section(GROUPS["files"])


def _refuse_code(wheel: Path, archive: zipfile.ZipFile, names: list[str]) -> None:
    for name in names:
        # An empty __init__.py makes a package of files importable by importlib.resources.
        empty = name.endswith("__init__.py") and not archive.read(name).strip()
        if name.endswith(CODE) and not empty:
            raise TrustError(
                f"{wheel.name} carries adapter files and code too ({name}); a package of adapters has no code. If you "
                f"trust it, install it as any other Python package, by pip."
            )
