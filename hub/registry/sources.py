"""Sources of published adapters: a folder, an address, a folder of wheels, a hub repository; several at once.

Each has an index, and gives the file of an entry. What an entry calls a path is looked up beneath its index and
nowhere else; over the network there is https alone, to the end of every redirect.
"""

import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from adaptdock import plugins
from adaptdock.errors import FileError, SourceError, UsageError
from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.atomic import whole_file
from adaptdock.hub.artefact.strict_json import LIMIT, parse, read
from adaptdock.hub.registry import wheels
from adaptdock.hub.registry.index import Entry, Index, unknown
from adaptdock.plugins.regular import open_regular

if TYPE_CHECKING:
    import requests

INDEX = "registry.json"
REDIRECTS, SECONDS, CHUNK = 5, 30, 2**20
HUB, WHEELS = "hf:", "wheels:"
VARIABLE = "ADAPTDOCK_SOURCES"


class Source(ABC):
    """A place that publishes adapters."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def index(self) -> Index:
        """Return the index; raise :class:`SourceError` or :class:`FileError` where it cannot be had."""

    @abstractmethod
    def content(self, entry: Entry) -> Iterator[bytes]:
        """Yield the parts of an entry's file; raise :class:`SourceError` or :class:`FileError`."""


class Folder(Source):
    """A folder with an index, or the index itself, on this machine."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        path = Path(name).expanduser()
        self.path = path / INDEX if path.is_dir() else path

    def index(self) -> Index:
        """Read the file."""
        return read(self.path, Index)

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Read a file beneath the index, or fetch one that is elsewhere."""
        if entry.file.startswith("https://"):
            yield from _fetched(entry.file, entry.size)
            return
        root = self.path.parent.resolve()
        path = (root / entry.file).resolve()
        if not path.is_relative_to(root):
            raise SourceError(self.name, f"{entry.label}: {entry.file!r} leads out of the folder {root}")
        yield from _parts(path)


class Address(Source):
    """An index at an https address. What was read last is kept, and used where the network is down."""

    note = ""
    """What a person should know about the index that was returned."""

    def index(self) -> Index:
        """Fetch the index; raise :class:`SourceError` where it cannot be reached and was never read."""
        kept = directories.cache() / "registries" / f"{hashlib.sha256(self.name.encode()).hexdigest()[:32]}.json"
        try:
            text = b"".join(_fetched(self.name, LIMIT))
        except SourceError as error:
            if not kept.exists():
                raise
            self.note = f"{error} The index as it was read last is used."
            return read(kept, Index)
        found = parse(text, self.name, Index)
        whole_file(kept, text)
        return found

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Fetch a file from beside the index, or from the address that the entry names."""
        yield from _fetched(urljoin(self.name, entry.file), entry.size)


class Hub(Source):
    """A repository of the Hugging Face hub with an index in it: ``hf:OWNER/NAME``."""

    def index(self) -> Index:
        """Fetch the index; the hub's own cache serves where the network is down."""
        return read(self._file(INDEX), Index)

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Fetch a file of the repository."""
        if entry.file.startswith("https://"):
            yield from _fetched(entry.file, entry.size)
        else:
            yield from _parts(self._file(entry.file))

    def _file(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            return Path(hf_hub_download(self.name.removeprefix(HUB), name))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise SourceError(self.name, f"{name} cannot be fetched: {str(error).splitlines()[0]}") from error


class Wheels(Source):
    """A folder of wheels that carry adapter files: ``wheels:FOLDER``. Its index is read off the wheels."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.path = Path(name.removeprefix(WHEELS)).expanduser()

    def index(self) -> Index:
        """Read the cards of all adapter files in all wheels."""
        if not self.path.is_dir():
            raise SourceError(self.name, "there is no such folder")
        return Index(adapters=[entry for wheel in sorted(self.path.glob("*.whl")) for entry in wheels.entries(wheel)])

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Read a file out of its wheel."""
        wheel, _, member = entry.file.partition("/")
        yield wheels.member(self.path / wheel, member)


def usual() -> list[str]:
    """Return the sources that are asked unless others are named: ``ADAPTDOCK_SOURCES``, or the project's own index."""
    named = os.environ.get(VARIABLE)
    return named.split(",") if named else [str(Path(plugins.__file__).parents[1] / INDEX)]


def open_source(name: str) -> Source:
    """Return the source that a person names; raise :class:`UsageError` for what is none."""
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


@dataclass(frozen=True)
class Found:
    """An entry, with the source and the index that it is from."""

    source: Source
    index: Index
    entry: Entry


@dataclass
class Sources:
    """Several sources, of which the first that has an adapter gives it."""

    sources: Sequence[Source]
    notes: list[str] = field(default_factory=list)
    """What a person should know: sources that could not be read, and others that have the same adapter."""

    def indices(self) -> list[tuple[Source, Index]]:
        """Return the index of each source that can be read; raise what the only one raises."""
        found = []
        for source in self.sources:
            try:
                found.append((source, source.index()))
            except (SourceError, FileError) as error:
                if len(self.sources) == 1:
                    raise
                self.notes.append(f"set aside: {error}")
            if isinstance(source, Address) and source.note:
                self.notes.append(source.note)
        return found

    def find(self, name: str, version: str | None = None) -> Found:
        """Return the entry of an adapter in the first source that has it, the newest version unless one is named.

        Raises :class:`UnknownNameError` with the nearest names.
        """
        indices = self.indices()
        found = [
            Found(source, index, entry) for source, index in indices if (entry := index.find(name, version)) is not None
        ]
        if not found:
            known = [
                entry.label if entry.name == name else entry.name for _, index in indices for entry in index.adapters
            ]
            raise unknown(name if version is None else f"{name}@{version}", known)
        first, *others = found
        if others:
            listed = ", ".join(f"{other.source.name} ({other.entry.version})" for other in others)
            self.notes.append(f"{first.entry.label} is taken from {first.source.name}; also in {listed}")
        return first


@contextmanager
def fetched(source: Source, entry: Entry) -> Iterator[Path]:
    """Yield the path of an entry's file, verified by size and hash, which is gone when the context is left.

    Raises :class:`SourceError` where it is another file than the entry says.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        seen, size = hashlib.sha256(), 0
        with path.open("wb") as stream:
            for part in source.content(entry):
                size += len(part)
                if size > entry.size:
                    break
                seen.update(part)
                stream.write(part)
        if size != entry.size:
            more = "more than" if size > entry.size else f"{size:,} of"
            raise SourceError(source.name, f"{entry.label}: the file has {more} the {entry.size:,} bytes of its entry")
        if seen.hexdigest() != entry.sha256:
            raise SourceError(
                source.name,
                f"{entry.label}: the file has the sha256 {seen.hexdigest()}, its entry says {entry.sha256}: it is "
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
    """Yield what is at an https address, at most a little more than ``limit`` bytes of it."""
    import requests

    try:
        with _followed(url) as answer:
            if answer.status_code != requests.codes.ok:
                raise SourceError(url, f"the server answered {answer.status_code} {answer.reason}")
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

    for _ in range(REDIRECTS + 1):
        if urlsplit(url).scheme != "https":
            raise SourceError(url, "a redirect leads away from https, which is not followed")
        answer = requests.get(url, stream=True, timeout=SECONDS, allow_redirects=False)
        if not answer.is_redirect:
            return answer
        url = urljoin(url, answer.headers["location"])
        answer.close()
    raise SourceError(url, f"more than {REDIRECTS} redirects")
