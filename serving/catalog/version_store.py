"""The store: copies of the served versions, and the state for a restart.

A version is a copy of an adapter file, named by its hash and written atomically before anything refers to it. The
state is one JSON document per adapter and a target per alias, in SQLite. Each change is one transaction, committed
before the process acts on it.
"""

import hashlib
import json
import logging
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from adaptdock.errors import FileError, TrustError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import AdapterFile, checked_header, read_file, read_header_of
from adaptdock.hub.artefact.locks import acquire, release
from adaptdock.hub.registry.admission import NONE, Requirements, admit
from adaptdock.plugins.regular import open_regular, size_of
from adaptdock.serving.errors import StoreError
from adaptdock.serving.json_logs import log

CHUNK = 2**20


class Store:
    """A folder with ``state.db`` and ``versions/``, owned by one process until :meth:`close`. Thread-safe.

    ``requirements`` hold for every version that is read.

    Raises :class:`LockedError` for a folder that another process owns.
    """

    def __init__(self, folder: Path, requirements: Requirements = NONE) -> None:
        self.folder, self._requirements = folder, requirements
        self._versions = folder / "versions"
        self._lock = threading.Lock()
        self._owned: Path | None = None
        try:
            self._versions.mkdir(parents=True, exist_ok=True)
            self._owned = acquire(folder)
            for half_written in self._versions.glob(".*.partial"):  # from a process that was killed
                half_written.unlink()
            self._base = sqlite3.connect(folder / "state.db", check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")  # a committed change survives a power failure
            for table, column in (("adapters", "record"), ("aliases", "target")):
                self._base.execute(f"CREATE TABLE IF NOT EXISTS {table} (name TEXT PRIMARY KEY, {column} TEXT)")
        except (OSError, sqlite3.Error) as error:
            self._disown()
            raise StoreError(folder, error) from error

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

    def sweep(self, used: Iterable[str]) -> None:
        """Delete all versions but those with these hashes."""
        used_paths = {self.path(sha256) for sha256 in used}
        for path in self._versions.glob("*.safetensors"):
            if path not in used_paths:
                path.unlink(missing_ok=True)

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

    def _read(self, query: str) -> list[tuple[str, str]]:
        with self._lock, self._store_errors():
            return self._base.execute(query).fetchall()

    def _write(self, table: str, name: str, value: str | None) -> None:
        with self._lock, self._store_errors():
            if value is None:
                self._base.execute(f"DELETE FROM {table} WHERE name = ?", (name,))
            else:
                self._base.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (name, value))

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(self.folder, error) from error


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
