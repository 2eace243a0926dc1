"""The adapter of each row: found by name, loaded at its first use, and identified by the content of its file."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.chunks import RowChunk
from adaptdock.engine.data.columns import Columns
from adaptdock.engine.data.sources import Reader, Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.prediction import predict_records
from adaptdock.engine.inference.residency import Residency
from adaptdock.errors import AdaptError, DataError, FileError, UnknownNameError
from adaptdock.hub.artefact.file import AdapterFile, read_card, read_file
from adaptdock.hub.registry.admission import NONE, Requirements, admit
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Record, Task
from adaptdock.plugins.files import SUFFIX

REASONS = 1000
"""Unknown names whose message is kept: comparing a name with all known names takes milliseconds."""


@dataclass(frozen=True)
class Refusal:
    """Why a row was not answered."""

    reason: str


@dataclass(frozen=True)
class RowAnswer:
    """The prediction for a row, and the name of the adapter that gave it."""

    adapter: str
    prediction: dict[str, Any]


@dataclass(frozen=True)
class _Pending:
    """A row that its task has read: its number in the chunk, the name of its adapter, and the record."""

    number: int
    adapter: str
    record: Record


def asked_fields(task: type[Task]) -> list[str]:
    """Return the fields of a task's records and inputs."""
    return list(dict.fromkeys([*task.columns, *task.asks]))


class _RowAdapter:
    """An adapter by its name: its file, the checksum of the file, its task, and the reader of rows for the task."""

    def __init__(self, path: Path, source: Source) -> None:
        self.path = path
        self.sha256 = checksum(path)
        card = read_card(path)
        task_class = registry.load("task", card.task.name)
        fields = asked_fields(task_class)
        columns = {name: column for name, column in source.columns.items() if name in fields}
        self.reader = Reader(task_class, Source(columns=columns, encoding=source.encoding))
        self.notes: list[str] = []
        self.task: Task = make_task(card.task.name, card.task.options)
        self._columns: tuple[str, Columns] | None = None

    def read(self, value: Any, place: str, file: str) -> Record:
        """Return a row as the task reads it; raise :class:`DataError` with the reason if it can't."""
        if self._columns is None or self._columns[0] != file:
            reader = self.reader
            self._columns = (
                file,
                Columns(reader.task, asked_fields(reader.task), reader.source.columns, {}, self.notes.append),
            )
        columns = self._columns[1]
        if isinstance(value, Mapping):
            columns.of(dict.fromkeys(value), place)  # resolves the names once, and notes what could be another
        item = self.reader.input(value, place, columns)
        try:
            return self.task.read(item.value)
        except DataError as error:
            raise DataError(f"{error}{item.hint}") from None


class RowAdapters:
    """Predicts rows with the adapters that they name, or with one adapter for all rows.

    ``files`` maps each name to its file; with ``only``, a name among them, no row names an adapter.
    """

    def __init__(
        self,
        open_dock: Callable[[], Dock],
        files: Mapping[str, Path],
        source: Source,
        batch_size: int,
        only: str | None = None,
        requirements: Requirements = NONE,
        probes: bool = True,
        device_bytes: int | None = None,
    ) -> None:
        self._open_dock, self._files, self._only = open_dock, files, only
        self._source, self._batch_size = source, batch_size
        self._requirements, self._probes, self._device_bytes = requirements, probes, device_bytes
        self._adapters: dict[str, _RowAdapter | AdaptError] = {}
        self._residency: Residency | None = None
        self._docked_once: set[str] = set()
        self._unknown = lru_cache(REASONS)(self._unknown_reason)

    @property
    def notes(self) -> list[str]:
        """What was decided while rows were read."""
        adapters = [adapter for adapter in self._adapters.values() if isinstance(adapter, _RowAdapter)]
        return list(dict.fromkeys(note for adapter in adapters for note in adapter.notes))

    def changed(self, adapters: Mapping[str, str]) -> str:
        """Return in words which adapter of a part differs now, by the checksums; empty if none does."""
        for name, sha256 in adapters.items():
            now = self._only or name
            try:
                adapter = self._adapter(now)
            except AdaptError as error:
                return f"the adapter {name!r} cannot be used any more ({error})"
            if adapter.sha256 != sha256:
                now_has = f"{adapter.path} has {adapter.sha256[:12]}..."
                return f"the adapter {name!r} had the sha256 {sha256[:12]}..., and {now_has}"
        return ""

    def used(self, names: Iterable[str]) -> dict[str, str]:
        """Return the checksums of adapters by their names; the only adapter is always among them."""
        return {name: self._adapter(name).sha256 for name in {*names, *([self._only] if self._only else [])}}

    def predict(self, chunk: RowChunk, column: str | None, file: str) -> list[Any]:
        """Return a :class:`RowAnswer` or a :class:`Refusal` for each row of a chunk."""
        outcomes: list[Any] = [None] * len(chunk.values)
        pending = []
        residency = self.open()
        for number, value in enumerate(chunk.values):
            row = chunk.start + number
            place = f"{file}:{row if chunk.lines is None else chunk.lines[number]}"
            try:
                if isinstance(value, DataError):
                    raise value
                name = self._only if column is None else _name(value, column)
                adapter = self._loaded(str(name), residency)
                pending.append(_Pending(number, str(name), adapter.read(value, place, file)))
            except AdaptError as error:
                outcomes[number] = Refusal(str(error))
        self._answer(pending, outcomes, residency)
        return outcomes

    # ------------------------------------------------------------------------------------------ inside

    def _adapter(self, name: str) -> _RowAdapter:
        adapter = self._adapters.get(name)
        if adapter is None:
            if name not in self._files:
                raise DataError(self._unknown(name))
            try:
                adapter = _RowAdapter(self._files[name], self._source)
            except AdaptError as error:
                adapter = error
            self._adapters[name] = adapter
        if isinstance(adapter, AdaptError):
            raise adapter
        return adapter

    def _unknown_reason(self, name: str) -> str:
        return str(UnknownNameError("adapter", name, self._files))

    def open(self) -> Residency:
        """Open the dock if it is not open, and dock the only adapter; raise the errors of both."""
        if self._residency is None:
            dock = self._open_dock()
            self._residency = Residency(dock, self._device_bytes, read=self._read, probes=self._probes)
            if self._only is not None:
                self._loaded(self._only, self._residency)
        return self._residency

    def _loaded(self, name: str, residency: Residency) -> _RowAdapter:
        """Return an adapter that has been docked at least once; an adapter that fails is not tried again."""
        adapter = self._adapter(name)
        if name not in self._docked_once:
            try:
                residency.know(name, adapter.path)
                with residency.present([name]):
                    self._docked_once.add(name)
            except AdaptError as error:
                self._adapters[name] = error
                raise
        return adapter

    def _read(self, path: Path) -> AdapterFile:
        sha256 = next(
            adapter.sha256
            for adapter in self._adapters.values()
            if isinstance(adapter, _RowAdapter) and adapter.path == path
        )

        def check(content: bytes) -> None:
            if hashlib.sha256(content).hexdigest() != sha256:
                raise FileError(path, "it has been changed since this run began: run again")
            admit(path, content, self._requirements)

        return read_file(path, check)

    def _answer(self, rows: Sequence[_Pending], outcomes: list[Any], residency: Residency) -> None:
        """Predict rows; rows that cannot be predicted together are divided, down to the row that fails."""
        if not rows:
            return
        names, dock = [row.adapter for row in rows], residency.dock
        try:
            with residency.present(names), dock.boarding(names) as boarded:
                predictions = predict_records(dock, boarded, [row.record for row in rows], self._batch_size)
        except AdaptError as error:
            if len(rows) == 1:
                outcomes[rows[0].number] = Refusal(str(error))
                return
            for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                self._answer(half, outcomes, residency)
            return
        for row, prediction in zip(rows, predictions, strict=True):
            outcomes[row.number] = RowAnswer(row.adapter, prediction)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file; raise :class:`FileError` if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FileError(path, f"it cannot be read: {error.strerror or error}") from None


def _name(value: Any, column: str) -> str:
    """Return the name of a row's adapter; raise :class:`DataError` for a row without one."""
    name = value.get(column) if isinstance(value, Mapping) else None
    if not isinstance(name, str) or not name:
        raise DataError(f"the column {column!r} names no adapter: found {name!r:.60}")
    return name.removeprefix("./").removesuffix(SUFFIX)
