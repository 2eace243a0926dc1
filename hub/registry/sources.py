"""Sources of published adapters: a folder, an address, a folder of wheels, or a hub repository; several at once.

Each source has an index and the files of its entries. A path in an entry must stay in the folder of its index. Network
access is by https only, redirects included.
"""

import hashlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from adaptdock.errors import FileError, SourceError
from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.strict_json import LIMIT, parse, read
from adaptdock.hub.registry import wheels
from adaptdock.hub.registry.index import Entry, Index, unknown
from adaptdock.plugins.regular import open_regular

if TYPE_CHECKING:
    import requests

INDEX = "registry.json"
REDIRECTS, SECONDS, CHUNK = 5, 30, 2**20
HUB, WHEELS = "hf:", "wheels:"


class Source(ABC):
    """A source of published adapters."""

    note = ""
    """A remark for the user about the last index, empty if there is none."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def identity(self) -> str:
        """The name of the source in any folder."""
        return self.name

    @abstractmethod
    def index(self) -> Index:
        """Return the index; raise :class:`SourceError` or :class:`FileError` if it is unavailable."""

    @abstractmethod
    def content(self, entry: Entry) -> Iterator[bytes]:
        """Yield the file of an entry in parts; raise :class:`SourceError` or :class:`FileError`."""

    def beside(self, file: str, limit: int) -> Iterator[bytes]:
        """Yield a file of the registry by its path beside the index, at most about ``limit`` bytes.

        Raises :class:`AbsentError` if there is none, and :class:`SourceError` or :class:`FileError` otherwise.
        """
        raise AbsentError(self.name, f"it has no {file}")


class AbsentError(SourceError):
    """A file that a source does not have."""


class Folder(Source):
    """A folder with an index, or the index file itself, on this machine."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        path = Path(name).expanduser()
        self.path = path / INDEX if path.is_dir() else path

    @property
    def identity(self) -> str:
        """The absolute path of the index."""
        return str(self.path.resolve())

    def index(self) -> Index:
        """Read the index file."""
        return read(self.path, Index)

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Read a file in the folder of the index, or fetch a file from its address."""
        if entry.file.startswith("https://"):
            yield from _fetched(entry.file, entry.size)
            return
        root = self.path.parent.resolve()
        path = (root / entry.file).resolve()
        if not path.is_relative_to(root):
            raise SourceError(self.name, f"{entry.label}: {entry.file!r} leads out of the folder {root}")
        yield from _parts(path)

    def beside(self, file: str, limit: int) -> Iterator[bytes]:
        """Read a file in the folder of the index."""
        path = self.path.parent / file
        if not path.exists():
            raise AbsentError(self.name, f"there is no {path}")
        yield from _parts(path)


class Address(Source):
    """An index at an https address. The last index is cached, and used while the network is down."""

    def index(self) -> Index:
        """Fetch the index; raise :class:`SourceError` if it is unreachable and not cached."""
        cached = directories.cache() / "registries" / f"{hashlib.sha256(self.name.encode()).hexdigest()[:32]}.json"
        try:
            text = b"".join(_fetched(self.name, LIMIT))
        except SourceError as error:
            if not cached.exists():
                raise
            self.note = f"{error} The cached index is used."
            return read(cached, Index)
        index = parse(text, self.name, Index)
        write_atomically(cached, text)
        return index

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Fetch a file, relative to the address of the index."""
        yield from _fetched(urljoin(self.name, entry.file), entry.size)

    def beside(self, file: str, limit: int) -> Iterator[bytes]:
        """Fetch a file, relative to the address of the index."""
        yield from _fetched(urljoin(self.name, file), limit)


class Hub(Source):
    """A repository of the Hugging Face hub with an index in it: ``hf:OWNER/NAME``."""

    def index(self) -> Index:
        """Fetch the index; the hub's own cache is used while the network is down."""
        return read(self._file(INDEX), Index)

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Fetch a file of the repository."""
        if entry.file.startswith("https://"):
            yield from _fetched(entry.file, entry.size)
        else:
            yield from _parts(self._file(entry.file))

    def beside(self, file: str, limit: int) -> Iterator[bytes]:
        """Fetch a file of the repository."""
        yield from _parts(self._file(file))

    def _file(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

        try:
            return Path(hf_hub_download(self.name.removeprefix(HUB), name))
        except EntryNotFoundError:
            raise AbsentError(self.name, f"it has no {name}") from None
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise SourceError(self.name, f"{name} cannot be fetched: {str(error).splitlines()[0]}") from error


class Wheels(Source):
    """A folder of wheels with adapter files: ``wheels:FOLDER``. The index is made from the wheels."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.path = Path(name.removeprefix(WHEELS)).expanduser()

    def index(self) -> Index:
        """Read the cards of all adapter files in all wheels."""
        if not self.path.is_dir():
            raise SourceError(self.name, "there is no such folder")
        return Index(adapters=[entry for wheel in sorted(self.path.glob("*.whl")) for entry in wheels.entries(wheel)])

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Read a file in its wheel."""
        wheel, _, member = entry.file.partition("/")
        yield wheels.member(self.path / wheel, member)


@dataclass(frozen=True)
class Offer:
    """An entry with its source and index."""

    source: Source
    index: Index
    entry: Entry


@dataclass
class Sources:
    """Several sources. The first source with an adapter provides it."""

    sources: Sequence[Source]
    notes: list[str] = field(default_factory=list)
    """Remarks for the user: unreadable sources, and other sources of the same adapter."""

    def indices(self) -> list[tuple[Source, Index]]:
        """Return the index of each readable source; with a single source, raise its error."""
        indices = []
        for source in self.sources:
            try:
                indices.append((source, source.index()))
            except (SourceError, FileError) as error:
                if len(self.sources) == 1:
                    raise
                self.notes.append(f"set aside: {error}")
            if source.note:
                self.notes.append(source.note)
        return indices

    def find(self, name: str, version: str | None = None) -> Offer:
        """Return the entry of an adapter in the first source with it, by default the newest version.

        Raises :class:`UnknownNameError` with the nearest names.
        """
        indices = self.indices()
        offers = [
            Offer(source, index, entry) for source, index in indices if (entry := index.find(name, version)) is not None
        ]
        if not offers:
            names = [
                entry.label if entry.name == name else entry.name for _, index in indices for entry in index.adapters
            ]
            raise unknown(name if version is None else f"{name}@{version}", names)
        first, *others = offers
        if others:
            listed = ", ".join(f"{offer.source.name} ({offer.entry.version})" for offer in others)
            self.notes.append(f"{first.entry.label} is taken from {first.source.name}; also in {listed}")
        return first


@contextmanager
def fetched(source: Source, entry: Entry) -> Iterator[Path]:
    """Yield the path of an entry's file after a check of size and hash; the file is deleted afterwards.

    Raises :class:`SourceError` for a file with another size or hash than in the entry.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        digest, size = hashlib.sha256(), 0
        with path.open("wb") as stream:
            for part in source.content(entry):
                size += len(part)
                if size > entry.size:
                    break
                digest.update(part)
                stream.write(part)
        if size != entry.size:
            more = "more than" if size > entry.size else f"{size:,} of"
            raise SourceError(source.name, f"{entry.label}: the file has {more} the {entry.size:,} bytes of its entry")
        if digest.hexdigest() != entry.sha256:
            raise SourceError(
                source.name,
                f"{entry.label}: the file has the sha256 {digest.hexdigest()}, its entry says {entry.sha256}: it is "
                f"another file than was published",
            )
        yield path


def _parts(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path) as stream:
            while part := stream.read(CHUNK):
                yield part
    except OSError as error:
        raise FileError(path, f"it cannot be read: {error.strerror or error}") from None


def _fetched(url: str, limit: int) -> Iterator[bytes]:
    """Yield the content at an https address, at most ``limit`` bytes plus a part of :data:`CHUNK`."""
    import requests

    try:
        with _followed(url) as answer:
            if answer.status_code != requests.codes.ok:
                kind = AbsentError if answer.status_code == requests.codes.not_found else SourceError
                raise kind(url, f"the server answered {answer.status_code} {answer.reason}")
            size = 0
            for part in answer.iter_content(CHUNK):
                yield part
                size += len(part)
                if size > limit:
                    return
    except requests.RequestException as error:
        raise SourceError(url, f"it cannot be reached: {type(error).__name__}.") from error


def _followed(url: str) -> "requests.Response":
    import requests

    for _ in range(REDIRECTS + 1):  # by hand, as requests would follow a redirect to http
        if urlsplit(url).scheme != "https":
            raise SourceError(url, "a redirect leads away from https, which is not followed")
        answer = requests.get(url, stream=True, timeout=SECONDS, allow_redirects=False)
        if not answer.is_redirect:
            return answer
        url = urljoin(url, answer.headers["location"])
        answer.close()
    raise SourceError(url, f"more than {REDIRECTS} redirects")
