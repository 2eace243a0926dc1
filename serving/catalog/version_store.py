"""The store: copies of the served versions, and the state for a restart.

A version is a copy of an adapter file, named by its hash and written atomically before anything refers to it. The
state is one JSON document per adapter and a target per alias, in SQLite. Each change is one transaction, committed
before the process acts on it.

Several processes may share a store. A counter in a file shows each of them that another process changes the state.
"""

import hashlib
import json
import logging
import math
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from adaptdock.errors import FileError, TrustError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile, checked_header, read_file, read_header_of
from adaptdock.hub.artefact.locks import SharedLock, acquire, changing, release
from adaptdock.hub.registry.admission import NONE, Requirements, admit
from adaptdock.plugins.regular import open_regular, size_of
from adaptdock.serving.errors import StoreError
from adaptdock.serving.json_logs import log

CHUNK = 2**20
COUNTER = "changes"
"""A file with a byte for each change of a shared store."""
CHANGE_SECONDS = 300.0
"""Seconds to wait for another process's change of a shared state: the first look at a large folder takes long."""
RETIRED_SECONDS = 3600.0
"""Age at which an unused version of a shared store is deleted; processes that are behind may still read it."""


class Store:
    """A folder with ``state.db`` and ``versions/``, owned by one process until :meth:`close`. Thread-safe.

    ``requirements`` hold for every version that is read. A ``shared`` store belongs to all processes that share it;
    each reads and writes the state only inside :meth:`changing`.

    Raises :class:`LockedError` for a folder in use by a process with which it is not shared.
    """

    def __init__(self, folder: Path, requirements: Requirements = NONE, shared: bool = False) -> None:
        self.folder, self.shared, self._requirements = folder, shared, requirements
        self._versions = folder / "versions"
        self._lock = threading.Lock()
        self._owned: Path | None = None
        self._share: SharedLock | None = None
        self._counter: FileIO | None = None
        self._followed = -1
        try:
            self._versions.mkdir(parents=True, exist_ok=True)
            if shared:
                self._share = SharedLock(folder)
                self._counter = FileIO(folder / COUNTER, "a+")
            else:
                self._owned = acquire(folder)
            with self.changing():
                self._open()
        except BaseException as error:
            self._disown()
            if isinstance(error, OSError | sqlite3.Error):
                raise StoreError(folder, error) from error
            raise

    def _open(self) -> None:
        for half_written in self._versions.glob(".*.partial"):  # from a process that was killed
            half_written.unlink()
        self._base = sqlite3.connect(self.folder / "state.db", check_same_thread=False, isolation_level=None)
        # A write-ahead log needs memory that processes on network file systems do not share.
        self._base.execute(f"PRAGMA journal_mode={'DELETE' if self.shared else 'WAL'}")
        self._base.execute("PRAGMA synchronous=FULL")  # a committed change survives a power failure
        for table, column in (("adapters", "record"), ("aliases", "target")):
            self._base.execute(f"CREATE TABLE IF NOT EXISTS {table} (name TEXT PRIMARY KEY, {column} TEXT)")

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep the other processes of a shared store from changes until the block ends.

        Raises :class:`LockedError` after :data:`CHANGE_SECONDS`.
        """
        with changing(self.folder / "state", CHANGE_SECONDS) if self.shared else nullcontext():
            yield

    @property
    def behind(self) -> bool:
        """Whether another process has begun or made a change since :meth:`follow`."""
        return self.shared and self._count() != self._followed

    def follow(self) -> bool:
        """Return whether the state is to be read: at the first call, and after changes by other processes.

        Inside :meth:`changing` only.
        """
        count = self._count()
        before, self._followed = self._followed, count
        return before != count

    def _count(self) -> int:
        """Return the number of changes that the processes of a shared store have begun."""
        if self._counter is None:
            return 0
        return os.fstat(self._counter.fileno()).st_size

    def keep(self, source: Path | bytes, largest: int | None = None) -> str:
        """Copy an adapter file of at most ``largest`` bytes (or its content) into the store; return its SHA-256.

        Raises :class:`FileError` for an unreadable source, :class:`StoreError` for a failed write.
        """
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._versions, prefix=".", suffix=".partial")
        except OSError as error:
            raise StoreError(self.folder, error) from error
        try:
            digest = hashlib.sha256()
            with os.fdopen(descriptor, "wb") as stream:
                for chunk in _chunks(source, largest):
                    digest.update(chunk)
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(self.path(digest.hexdigest()))  # atomic, and harmless if the version exists
            return digest.hexdigest()
        except OSError as error:
            raise StoreError(self.folder, error) from error
        finally:
            Path(temporary).unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        """Return the path of the version with this hash, whether or not it exists."""
        return self._versions / f"{sha256}.safetensors"

    def read(self, path: Path) -> AdapterFile:
        """Read a version; raise :class:`FileError` for replaced content, :class:`TrustError` for refused content.

        The error is logged too: a client that asks for the adapter cannot repair the store.
        """
        try:
            return read_file(path, lambda content: self._admit(path, content))
        except (FileError, TrustError) as error:
            log("refused", logging.ERROR, version=path.stem, reason=str(error))
            raise

    def card(self, sha256: str) -> Card:
        """Return the card of a version after a check of its hash; errors as :meth:`read`."""
        path = self.path(sha256)
        content = b"".join(_chunks(path, None))
        self._admit(path, content)
        return read_header_of(content, path).card

    def _admit(self, path: Path, content: bytes) -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != path.stem:
            raise FileError(path, f"its content was replaced: its sha256 is {sha256}, not that of its name")
        admit(path, content, self._requirements)

    def discard(self, sha256: str) -> None:
        """Delete a version that is unused from now on. In a shared store :meth:`sweep` does so later."""
        if self.shared:
            with suppress(FileNotFoundError):
                os.utime(self.path(sha256))  # its age counts from now
        else:
            self.path(sha256).unlink(missing_ok=True)

    def sweep(self, used: Iterable[str]) -> None:
        """Delete all versions but those with these hashes; in a shared store only after :data:`RETIRED_SECONDS`."""
        used_paths = {self.path(sha256) for sha256 in used}
        newest = time.time() - RETIRED_SECONDS if self.shared else math.inf
        for path in self._versions.glob("*.safetensors"):
            with suppress(FileNotFoundError):
                if path not in used_paths and path.stat().st_mtime < newest:
                    path.unlink()

    # -------------------------------------------------------------------------------------- state

    def adapters(self) -> dict[str, dict[str, Any]]:
        """Return the record of each adapter, as :meth:`Served.record` made it."""
        return {name: json.loads(record) for name, record in self._read("SELECT name, record FROM adapters")}

    def aliases(self) -> dict[str, str]:
        """Return the target of each alias: an adapter's name, or ``name@2``."""
        return dict(self._read("SELECT name, target FROM aliases"))

    def write_adapter(self, name: str, record: dict[str, Any] | None) -> None:
        """Write the record of an adapter; None deletes the record. Raises :class:`StoreError` for a failed write."""
        self._write("adapters", name, None if record is None else json.dumps(record))

    def write_alias(self, name: str, target: str | None) -> None:
        """Write the target of an alias; None deletes the alias. Raises :class:`StoreError` for a failed write."""
        self._write("aliases", name, target)

    def close(self) -> None:
        """Close the state and release the folder to other processes."""
        with self._lock:
            self._base.close()
            self._disown()

    def _disown(self) -> None:
        if self._owned is not None:
            release(self._owned)
            self._owned = None
        if self._counter is not None:
            self._counter.close()
            self._counter = None
        if self._share is not None:
            self._share.release()
            self._share = None

    def _read(self, query: str) -> list[tuple[str, str]]:
        with self._lock, self._store_errors():
            return self._base.execute(query).fetchall()

    def _write(self, table: str, name: str, value: str | None) -> None:
        with self._lock, self._store_errors():
            self._announce()
            if value is None:
                self._base.execute(f"DELETE FROM {table} WHERE name = ?", (name,))
            else:
                self._base.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (name, value))

    def _announce(self) -> None:
        """Count a change before it is made: the processes that see the count wait for the end of the change."""
        if self._counter is not None:
            self._counter.write(b".")
            self._followed = self._count()

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise StoreError(self.folder, error) from error


@contextmanager
def unlocated(name: str, file: Path | bytes) -> Iterator[None]:
    """Name the adapter instead of the path in a file error: clients must not learn paths of this machine."""
    try:
        yield
    except FileError as error:
        if error.path != str(file):  # another file, such as the trust policy
            raise
        raise FileError(f"the file of {name!r}", error.problem) from None


def hash_of(path: Path, largest: int | None = None) -> str:
    """Return the SHA-256 of an adapter file of at most ``largest`` bytes; raise :class:`FileError`."""
    digest = hashlib.sha256()
    for chunk in _chunks(path, largest):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(source: Path | bytes, largest: int | None) -> Iterator[bytes]:
    """Yield the content of an adapter file, after a check of its size and header."""
    if isinstance(source, bytes):
        yield source
        return
    try:
        stream = open_regular(source)
    except OSError as error:
        raise FileError(source, f"it cannot be read: {error.strerror or error}") from error
    with stream:
        size = size_of(stream)
        if largest is not None and size > largest:
            raise FileError(source, f"it has {size:,} bytes; at most {largest:,} are taken (--max-upload)")
        checked_header(stream, source)
        while chunk := _read(source, stream, min(CHUNK, size)):
            size -= len(chunk)
            yield chunk


def _read(source: Path, stream: BinaryIO, count: int) -> bytes:
    try:
        return stream.read(count)
    except OSError as error:
        raise FileError(source, f"it cannot be read: {error.strerror or error}") from error
