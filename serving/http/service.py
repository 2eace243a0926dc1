"""The service: the dock, catalog and batcher of one process, and the path from inputs to answers."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

from starlette.requests import Request

from adaptdock import __version__
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.residency import Residency
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.registry.admission import refusal
from adaptdock.plugins.contracts import Task
from adaptdock.serving.catalog.audit_log import TRUST, Actor, AuditLog
from adaptdock.serving.catalog.catalog import Catalog
from adaptdock.serving.catalog.folder_watcher import Watcher
from adaptdock.serving.catalog.loader import Loader
from adaptdock.serving.catalog.version_store import Store
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.errors import (
    BrokenError,
    BusyError,
    DeviceError,
    LateError,
    LimitError,
    SlowChangeError,
    StartingError,
    StoppingError,
)
from adaptdock.serving.http.authorization import require
from adaptdock.serving.http.loop_lag import LoopLag
from adaptdock.serving.http.metrics import BARE, Metrics
from adaptdock.serving.http.preconditions import Preconditions, preconditions
from adaptdock.serving.json_logs import log, log_error
from adaptdock.serving.memory import MemoryTrim
from adaptdock.serving.scheduling.dynamic_batching import Batcher
from adaptdock.serving.scheduling.encoding import measured
from adaptdock.serving.scheduling.inference_request import Outcome, Work
from adaptdock.serving.scheduling.mirroring import Mirroring
from adaptdock.serving.tracing import Tracing
from adaptdock.serving.versions import Selection
from adaptdock.serving.warm_up import warm_up

Result = TypeVar("Result")
Status = Literal["ok", "starting", "stopping", "broken"]
FOLLOW_SECONDS = 5.0
"""Longest wait of a request for the change of another process; then the versions before the change answer."""
GRACE = 2.0
"""Seconds for a batch or a change in progress after the drain time."""


@dataclass(frozen=True)
class Answered:
    """The outcome of an input, and the adapter and version behind it."""

    adapter: str
    version: int
    task: Task | None
    """None for the bare backbone."""
    outcome: Outcome


class InputError(Exception):
    """The error of one input in a request; ``number`` counts from 0."""

    def __init__(self, number: int, error: AdaptError) -> None:
        super().__init__(str(error))
        self.number, self.error = number, error


class ClientGone(Exception):
    """The client has closed its connection."""


class Service:
    """The parts of a serving process and their life cycle.

    The batcher's threads encode and compute. The loader's thread reads files and changes the catalog. Neither blocks
    the event loop.
    """

    def __init__(self, dock: Dock, options: ServingOptions, tracing: Tracing | None = None) -> None:
        self.dock, self.options, self.tracing = dock, options, tracing
        versions = {name: metadata.version(name) for name in ("torch", "transformers")}
        self.metrics = Metrics(
            {"version": __version__, **versions, "backbone": dock.backbone.id, "device": str(dock.backbone.device)}
        )
        self.store = Store(options.state_folder, options.requirements, options.shared)
        self.residency = Residency(dock, options.device_bytes, options.host_bytes, self._read, options.probes)
        self._loader = Loader()
        self.catalog = Catalog(
            self.residency, self.store, options.keep_versions, self._changed, options.max_upload, self._loader.submit
        )
        self.catalog.incomplete = StartingError
        self.batcher = Batcher(self.residency, options, self.metrics, None if tracing is None else tracing.follow)
        self._mirroring = Mirroring(self.catalog, self.batcher, self.metrics.mirrored)
        self.audit = AuditLog(None if options.audit is None else Path(options.audit).expanduser(), self._state)
        self.watcher = None
        if options.folder is not None:
            self.watcher = Watcher(options.folder, self.catalog, self.audit, options.follow_links)
        self._watching: list[asyncio.Task[None]] = []
        self.lag = LoopLag()
        self._ready = self._leaving = self._stopping = self._failed = False
        self._end = 0.0  # when the time to drain is over
        self._trust_problem = ""

    @property
    def status(self) -> Status:
        """The state of the process; broken after a failed start, with a failed device, or with a dead thread."""
        if self._leaving:
            return "stopping"
        if self._failed or self.batcher.device.failed:
            return "broken"
        if not self._ready:
            return "starting"
        return "ok" if self.batcher.alive else "broken"

    @property
    def writes(self) -> bool:
        """Whether the backbone alone is a language model."""
        return bool(self.dock.backbone.writes_in_steps or self.dock.backbone.endings)

    @property
    def backbone_name(self) -> str:
        """The name of the backbone for clients: its id, or of a folder the last part."""
        identity = self.dock.backbone.id
        return Path(identity).name if Path(identity).is_absolute() else identity

    def is_bare(self, name: str) -> bool:
        """Return whether a name means the backbone alone. An adapter or alias of that name goes first."""
        known = name in self.catalog.names or name in self.catalog.aliases
        return self.writes and not known and name in (self.backbone_name, self.dock.backbone.id)

    @property
    def refused(self) -> dict[str, str]:
        """The reason for each refused file of the watched folder, by its name without the suffix."""
        return {} if self.watcher is None else dict(self.watcher.refused)

    # ------------------------------------------------------------------------------ begin and end

    async def start(self) -> None:
        """Start: restore the state, load the folder, warm up. Requests are answered meanwhile."""
        self.batcher.start()
        self._watching = [asyncio.create_task(self._watch()), asyncio.create_task(self.lag.watch())]

    async def _watch(self) -> None:
        try:
            await asyncio.wrap_future(self._loader.submit(self._restore))
        except Exception as error:
            self._failed = True
            self.catalog.incomplete = BrokenError
            log_error("starting failed", error)
            return
        self._ready, trim = True, MemoryTrim()
        log("ready", adapters=len(self.catalog.names), backbone=self.dock.backbone.id)
        while True:
            await asyncio.sleep(self.options.watch)
            try:
                await asyncio.to_thread(trim.look, self.batcher.waiting)
                await self.follow()
                await asyncio.wrap_future(self._loader.submit(self._withdraw))
                if self.watcher is not None:
                    await asyncio.wrap_future(self._loader.submit(self.watcher.look))
            except Exception as error:
                log_error("watching failed", error)

    def _withdraw(self) -> None:
        """Unload versions that may not be used any more: revoked, or refused by a changed policy or lock file."""
        contents = {version.sha256 for served in self.catalog.all().values() for version in served.versions.values()}
        try:
            refusals = {sha256: refusal(sha256, self.options.requirements) for sha256 in contents}
            reasons, problem = {sha256: reason for sha256, reason in refusals.items() if reason}, ""
        except AdaptError as error:  # until its repair nothing new is loaded, and loaded versions keep answering
            reasons, problem = {}, str(error)
        if problem and problem != self._trust_problem:
            log("trust unreadable", logging.ERROR, reason=problem)
        self._trust_problem = problem
        if reasons:
            names = [
                name
                for name, served in self.catalog.all().items()
                if any(version.sha256 in reasons for version in served.versions.values())
            ]
            self.audit.act(TRUST, "withdraw", names, partial(self.catalog.withdraw, reasons))

    def _restore(self) -> None:
        with self.catalog.changing():  # of several processes one reads a new folder, and the others follow
            self.catalog.restore()
            if self.watcher is not None:
                self.watcher.look(first=True)
        self.catalog.incomplete = None
        if self.options.warm_up:
            warm_up(self.dock, self.residency, self.catalog, self.batcher.admission, self.options)

    def _read(self, path: Path) -> AdapterFile:
        """Read the file of an adapter that is about to be docked."""
        self.metrics.loaded()
        return self.store.read(path)

    async def follow(self) -> None:
        """Take over what other processes have changed in a shared state, and wait :data:`FOLLOW_SECONDS` at most."""
        if self._ready and self.store.behind:
            following = asyncio.wrap_future(self._loader.submit(self.catalog.follow))
            following.add_done_callback(_followed)
            await asyncio.wait([following], timeout=FOLLOW_SECONDS)

    def leave(self) -> None:
        """Report that the process is not ready, and close each connection after its next answer."""
        self._leaving = True

    def stopping(self) -> None:
        """Refuse new requests from now on, and start the drain time."""
        self.leave()
        if not self._stopping:
            self._stopping, self._end = True, time.monotonic() + self.options.drain

    async def stop(self) -> None:
        """Stop: answer accepted requests within the drain time, and abandon a thread that hangs."""
        self.stopping()
        for watching in self._watching:
            watching.cancel()
        self.batcher.stop()
        computed = await asyncio.to_thread(self.batcher.join, max(0.0, self._end - time.monotonic()))
        if not computed:
            self.batcher.abandon()
            computed = await asyncio.to_thread(self.batcher.join, GRACE)
        loaded = await asyncio.to_thread(self._loader.stop, max(GRACE, self._end - time.monotonic()))
        if loaded:
            self.store.close()
        log("stopped", complete=computed and loaded)

    async def loading(self, change: Callable[..., Result], *arguments: Any) -> Result:
        """Run a change of the catalog in the loader's thread and return its result.

        Raises :class:`SlowChangeError` after ``change_timeout``, and :class:`StartingError` until all adapters are
        loaded.
        """
        if self.catalog.incomplete is not None:
            raise self.catalog.incomplete
        future = self._loader.submit(change, *arguments)
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(_seen)  # after a timeout nobody awaits the future
        done, _ = await asyncio.wait([waiting], timeout=self.options.change_timeout)
        if not done:
            begun = not future.cancel()  # a running change cannot be cancelled
            raise SlowChangeError(self.options.change_timeout, begun)
        if waiting.cancelled():  # by Loader.stop()
            raise StoppingError
        return waiting.result()

    async def administer(
        self, request: Request, action: str, names: Sequence[str], change: Callable[..., Result], *arguments: Any
    ) -> Result:
        """Run a change as :meth:`loading` does, for a request, and record it in the audit log.

        Raises :class:`ChangedError` if the first name is not in the state that the request makes a condition.
        """
        address = None if request.client is None else request.client.host
        actor = Actor("http", getattr(request.state, "token", None), address, request.state.request_id)
        bound = partial(change, *arguments)
        condition = preconditions(request)
        if condition:
            bound = partial(self.catalog.conditionally, partial(self._check, condition, names[0]), bound)
        return await self.loading(self.audit.act, actor, action, names, bound)

    def _check(self, condition: Preconditions, name: str) -> None:
        condition.check(name, self.public_state(name))

    def public_state(self, name: str) -> dict[str, Any] | str | None:
        """Return what operators change of an adapter or alias, as JSON; None for an unknown name."""
        served = self.catalog.all().get(name)
        return self.catalog.aliases.get(name) if served is None else served.public_record()

    def configure(self, changed: Mapping[str, Any]) -> None:
        """Change options while requests are answered."""
        self.options = self.options.model_copy(update=dict(changed))
        self.batcher.configure(self.options)
        self.catalog.keep, self.catalog.largest = self.options.keep_versions, self.options.max_upload

    def _state(self, name: str) -> dict[str, Any] | str | None:
        """Return the record of an adapter, the target of an alias, or None for an unknown name."""
        served = self.catalog.all().get(name)
        return self.catalog.aliases.get(name) if served is None else served.record()

    def _changed(self, event: str, about: Mapping[str, Any]) -> None:
        log(event, **about)
        if event == "removed":
            self.metrics.forget(about["adapter"])

    # ------------------------------------------------------------------------------------- asking

    async def ask(
        self,
        request: Request,
        names: Sequence[str],
        items: Sequence[Any],
        timeout: float | None = None,
        bare: bool = False,
        **more: Any,
    ) -> list[Answered]:
        """Return an answer for each input, of the backbone alone if ``bare``; ``more`` are fields of :class:`Work`.

        Raises :class:`InputError` for the first failed input, and :class:`ClientGone`. Before any input is accepted it
        raises :class:`UnknownNameError`, :class:`ForbiddenError`, :class:`BusyError`, :class:`LimitError`,
        :class:`StoppingError` or :class:`DeviceError`.
        """
        if self._stopping:
            raise StoppingError
        if self.batcher.device.failed:
            raise DeviceError
        require(request, self.catalog, *dict.fromkeys(names))
        if len(items) > self.options.max_inputs:
            raise LimitError(f"there are {len(items)} inputs; one request has at most {self.options.max_inputs}")
        seconds = min(timeout or self.options.timeout, self.options.timeout)
        selections: dict[str, Selection] = {}
        try:
            for name in dict.fromkeys(names):  # one choice per name: all its inputs go to the same version
                selections[name] = Selection(BARE, ()) if bare else self.catalog.choose(name)
            deadline = time.monotonic() + seconds
            more |= {"client": request.scope.get("state", {}).get("token") or ""}
            works = [
                Work(selections[name].name, selections[name].parts, item, deadline, size=size, **more)
                for name, item, size in zip(names, items, self._sizes(items), strict=True)
            ]
            self._submit(works)
            for work in works:
                work.future.add_done_callback(lambda future, work=work: self._count(work, future))  # type: ignore[misc]
            for name, work in zip(names, works, strict=True):
                if selections[name].mirrored:
                    self._mirroring.send(work, selections[name].mirrored)
            answers = await self._answers(request, works, seconds)
        finally:
            for held in selections.values():
                self.catalog.release(held.parts)
        return answers

    def _submit(self, works: Sequence[Work]) -> None:
        try:
            self.batcher.submit(works)
        except BusyError as error:
            self.metrics.refused(error.limit, [_label(work) for work in works])
            raise

    def _sizes(self, items: Sequence[Any]) -> list[int]:
        sizes = []
        for number, item in enumerate(items):
            try:
                sizes.append(measured(item, self.options.characters))
            except LimitError as error:
                raise InputError(number, error) from None
        return sizes

    async def stream(self, request: Request, name: str, item: Any, **more: Any) -> AsyncIterator[str | Answered]:
        """Yield the pieces of a text during generation, and at last the whole answer; errors as :meth:`ask`."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        # The batcher calls on_text in its own thread, but asyncio queues are not thread-safe.
        more["on_text"] = lambda piece: loop.call_soon_threadsafe(pieces.put_nowait, piece)
        asking = asyncio.ensure_future(self.ask(request, [name], [item], **more))
        asking.add_done_callback(lambda _: pieces.put_nowait(None))
        asking.add_done_callback(_seen)
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            (answered,) = asking.result()
            yield answered
        finally:
            asking.cancel()

    async def _answers(self, request: Request, works: Sequence[Work], seconds: float) -> list[Answered]:
        futures = [asyncio.wrap_future(work.future) for work in works]
        try:
            _, late = await unless_gone(request, asyncio.wait(futures, timeout=seconds))
            if late:
                for work in works:
                    work.fail(LateError(seconds))
                raise LateError(seconds)
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
        finally:
            for future in futures:
                future.cancel()  # also cancels the future of the work, so that the batcher drops the input
                _seen(future)
        answered = []
        for number, (work, outcome) in enumerate(zip(works, outcomes, strict=True)):
            if isinstance(outcome, AdaptError):
                raise InputError(number, outcome)
            if isinstance(outcome, BaseException):
                raise outcome
            bare = not work.parts
            version, task = (0, None) if bare else (work.parts[-1].number, work.task)
            answered.append(Answered(_label(work), version, task, outcome))
        return answered

    def _count(self, work: Work, future: "Future[Outcome]") -> None:
        name = _label(work)
        if future.cancelled():
            self.metrics.abandoned(name)
        else:
            self.metrics.answered(name, time.monotonic() - work.since, future.exception() is not None)


def _label(work: Work) -> str:
    """Return the name of the adapter that answers, for counters."""
    return work.parts[-1].name if work.parts else BARE


def _followed(future: "asyncio.Future[None]") -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log_error("following failed", error)


def _seen(future: "asyncio.Future[Any]") -> None:
    """Mark the error of a future as retrieved, or asyncio would print it when nobody awaits the future."""
    if future.done() and not future.cancelled():
        future.exception()


async def unless_gone(request: Request, answer: Awaitable[Result]) -> Result:
    """Return the awaited answer; raise :class:`ClientGone` and stop waiting as soon as the client disconnects."""
    waited = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((waited, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waited.done():
            raise ClientGone
        return waited.result()
    finally:
        for task in (waited, gone):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
