"""The fleet view: what all processes of a shared state have counted and docked.

Each process writes a report into the state folder now and then, and reads those of the others. So any process shows
all of them, without connections among them.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.serving.http.metrics import Tally
from adaptdock.serving.http.service import Service
from adaptdock.serving.json_logs import log_error
from adaptdock.serving.versions import Served

SECONDS = 1.0
"""Shortest time between two reports of a process."""
SILENT_SECONDS = 10.0
"""Age at which a report is that of a process which has ended without removing it; at least three reports are due."""
SUFFIX = ".json"


class AdapterReport(BaseModel):
    """The counts of one adapter in one process, and whether its weights are docked there."""

    requests: int = 0
    errors: int = 0
    answered: int = 0
    seconds: float = 0.0
    docked: bool = False


class ProcessReport(BaseModel):
    """A process by its machine and number, its inputs without an answer, and the adapters that it has used."""

    process: str
    waiting: int
    adapters: dict[str, AdapterReport]

    @property
    def docked(self) -> int:
        """The number of docked adapters."""
        return sum(adapter.docked for adapter in self.adapters.values())


class FleetView:
    """The newest reports of all processes of a service's state; without a shared state, of this one alone."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._folder = service.options.state_folder / "processes"
        self._file = self._folder / f"{uuid4().hex}{SUFFIX}"
        self._pause = max(SECONDS, service.options.watch)
        self._others: list[ProcessReport] = []

    @property
    def reports(self) -> list[ProcessReport]:
        """The report of this process as of now, and the newest ones of the others."""
        return [self._report(), *self._others]

    def tally(self, name: str) -> Tally:
        """Return the sum of the counts of an adapter in all processes."""
        total = Tally()
        every: list[Tally | AdapterReport] = [self._service.metrics.tally(name), *self._of_others(name)]
        for counts in every:
            total.requests += counts.requests
            total.errors += counts.errors
            total.answered += counts.answered
            total.seconds += counts.seconds
        return total

    def docked_in(self, served: Served) -> int:
        """Return the number of processes in which an adapter is docked."""
        return self._is_docked(served) + sum(report.docked for report in self._of_others(served.name))

    async def watch(self) -> None:
        """Exchange reports until cancelled, and then remove that of this process."""
        if not self._service.options.shared:
            return
        try:
            while True:
                try:
                    await asyncio.to_thread(self.exchange)
                except OSError as error:  # a full disk or a lost folder; the others still see the last report
                    log_error("reporting failed", error)
                await asyncio.sleep(self._pause)
        finally:
            self._file.unlink(missing_ok=True)

    def exchange(self) -> None:
        """Write the report of this process, and read those of the others."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, self._report().model_dump_json().encode())
        self._others = list(self._read(self._file.stat().st_mtime))

    def _read(self, now: float) -> Iterator[ProcessReport]:
        """Yield the reports of the others; ``now`` is by the clock of the folder, which all processes share."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            with suppress(FileNotFoundError, ValidationError):  # a process has just ended, or has another version
                age = now - path.stat().st_mtime
                if age > max(SILENT_SECONDS, 3 * self._pause):
                    path.unlink()
                elif path != self._file:
                    yield ProcessReport.model_validate_json(path.read_bytes())

    def _report(self) -> ProcessReport:
        adapters = {}
        for name, served in self._service.catalog.all().items():
            counts, docked = self._service.metrics.tally(name), self._is_docked(served)
            if docked or counts.requests:
                adapters[name] = AdapterReport(**vars(counts), docked=docked)
        return ProcessReport(process=self._process, waiting=self._service.batcher.waiting, adapters=adapters)

    def _is_docked(self, served: Served) -> bool:
        return any(self._service.catalog.tier(version) == "device" for version in tuple(served.versions.values()))

    def _of_others(self, name: str) -> list[AdapterReport]:
        return [report.adapters[name] for report in self._others if name in report.adapters]
