"""Sources by name, and those whose signed state is verified with a root that this machine trusts.

The signed state (:mod:`signed_state`) is verified by python-tuf's own client: signatures, thresholds, expiry, versions
that only grow, and the hash of the index. What was verified last stays beside the root, so that a later state can't be
an older one.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from adaptdock import plugins
from adaptdock.errors import FileError, SourceError, TrustError, UnknownNameError, UsageError
from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.artefact.strict_json import LIMIT, parse
from adaptdock.hub.registry.index import Entry, Index
from adaptdock.hub.registry.signed_state import EXTRA, FOLDER
from adaptdock.hub.registry.sources import HUB, INDEX, WHEELS, AbsentError, Address, Folder, Hub, Source, Wheels

VARIABLE = "ADAPTDOCK_SOURCES"
STATE = "state"
"""The folder beside a root with the last verified state."""
SCHEME = "source:///"
"""Of the addresses by which python-tuf asks for a file of a source."""


class Verified(Source):
    """A source whose index has to be the newest that its root's keys have signed."""

    def __init__(self, source: Source, root: Path) -> None:
        super().__init__(source.name)
        self._source, self._root = source, root

    @property
    def identity(self) -> str:
        """The identity of the source itself."""
        return self._source.identity

    def index(self) -> Index:
        """Verify the signed state and return the index.

        Raises :class:`TrustError` for a state that is expired, older than before, or not signed by the keys of the
        root, and for another index than the signed one.
        """
        return parse(self._verified(), self.name, Index)

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Yield the file of an entry; the index has its hash."""
        return self._source.content(entry)

    def beside(self, file: str, limit: int) -> Iterator[bytes]:
        """Yield a file beside the index; it has a signature of its own."""
        return self._source.beside(file, limit)

    def _verified(self) -> bytes:
        try:
            from tuf.api.exceptions import (
                DownloadError,
                DownloadLengthMismatchError,
                ExpiredMetadataError,
                RepositoryError,
            )
            from tuf.ngclient import Updater
        except ImportError:
            raise UsageError(f"this machine trusts a root of {self.name}, which needs python-tuf: {EXTRA}") from None
        folder = self._root.parent
        with changing(self._root):
            try:
                (folder / STATE).mkdir(exist_ok=True)
                updater = Updater(
                    str(folder / STATE),
                    f"{SCHEME}{FOLDER}/",
                    target_dir=str(folder / STATE),
                    target_base_url=SCHEME,
                    fetcher=_fetcher(self._source),
                    bootstrap=self._root.read_bytes(),
                )
                updater.refresh()
                target = updater.get_targetinfo(INDEX)
                if target is None:
                    raise TrustError(f"{self.name} is refused: its signed state has no {INDEX}")
                return Path(updater.download_target(target)).read_bytes()
            except ExpiredMetadataError as error:
                raise TrustError(
                    f"{self.name} is refused: its signed state has expired ({error}). Its publisher has not signed it "
                    f"again (adapt refresh), or the server passes an old copy"
                ) from None
            except (RepositoryError, DownloadLengthMismatchError) as error:
                raise TrustError(f"{self.name} is refused: its signed state is not valid: {error}") from None
            except DownloadError as error:
                cause = error.__cause__ if isinstance(error.__cause__, SourceError | FileError) else None
                raise SourceError(self.name, f"its signed state can't be read: {cause or error}") from None
            except OSError as error:
                raise FileError(folder, f"it can't be used: {error.strerror or error}") from error


def _fetcher(source: Source):  # type: ignore[no-untyped-def]
    """Return a fetcher of python-tuf that reads the files of a source."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class Fetcher(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            try:
                return iter([b"".join(source.beside(url.removeprefix(SCHEME), LIMIT))])
            except AbsentError as error:
                raise DownloadHTTPError(str(error), 404) from error

    return Fetcher()


# ---------------------------------------------------------------------------------------------- roots


def trust_root(name: str, file: Path) -> int:
    """Trust the root in a file for a source from now on, and return its version.

    Raises :class:`FileError` for a file that is not a root signed by its own keys.
    """
    try:
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata, Root
    except ImportError:
        raise UsageError(f"a trusted root needs python-tuf: {EXTRA}") from None
    source = named(name)
    try:
        content = file.read_bytes()
        root = Metadata[Root].from_bytes(content)
        if not isinstance(root.signed, Root):
            raise FileError(file, f"it is the metadata of the role {root.signed.type}, not a root")
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except OSError as error:
        raise FileError(file, f"it cannot be read: {error.strerror or error}") from None
    except RepositoryError as error:
        raise FileError(file, f"it is not a root of The Update Framework, signed by its own keys: {error}") from None
    path = _root_file(source)
    with changing(path):
        _forget(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path.with_name("source"), source.identity.encode())
        write_atomically(path, content)
    return int(root.signed.version)


def distrust_root(name: str) -> None:
    """Use a source without its signed state again; raise :class:`UnknownNameError` without a trusted root of it."""
    source = named(name)
    path = _root_file(source)
    if not path.exists():
        raise UnknownNameError("source with a trusted root", source.identity, rooted())
    with changing(path):
        _forget(path)


def rooted() -> list[str]:
    """Return the identities of the sources with a trusted root, sorted."""
    return sorted(path.with_name("source").read_text() for path in _roots().glob("*/root.json"))


def _forget(root: Path) -> None:
    root.unlink(missing_ok=True)
    root.with_name("source").unlink(missing_ok=True)
    shutil.rmtree(root.with_name(STATE), ignore_errors=True)


def _roots() -> Path:
    return directories.home() / "roots"


def _root_file(source: Source) -> Path:
    return _roots() / hashlib.sha256(source.identity.encode()).hexdigest()[:32] / "root.json"


# ---------------------------------------------------------------------------------------------- names


def usual() -> list[str]:
    """Return the default sources: ``ADAPTDOCK_SOURCES`` (comma-separated), or the project's own index."""
    variable = os.environ.get(VARIABLE)
    return variable.split(",") if variable else [own_source()]


def own_source() -> str:
    """Return the name of the project's own index, which this package carries."""
    return str(Path(plugins.__file__).parents[1] / INDEX)


def open_source(name: str) -> Source:
    """Return the source with this name, verified where this machine trusts a root of it.

    Raises :class:`UsageError` for an invalid name.
    """
    source = named(name)
    root = _root_file(source)
    return Verified(source, root) if root.exists() else source


def named(name: str) -> Source:
    """Return the source with this name as it is; raise :class:`UsageError` for an invalid name."""
    if name.startswith(HUB):
        return Hub(name)
    if name.startswith(WHEELS):
        return Wheels(name)
    if name.startswith("https://"):
        return Address(name)
    if "://" in name:
        raise UsageError(
            f"the source {name!r} cannot be used: a source is a folder, a registry.json, an address that begins with "
            f"https://, hf:OWNER/NAME or wheels:FOLDER"
        )
    return Folder(name)
