"""The process: a server with its limits and signals around the application."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.locks import owned
from adaptdock.plugins.contracts import LoadOptions
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.access_tokens import Tokens, TokensFile, read_tokens
from adaptdock.serving.http.app import make_app
from adaptdock.serving.http.connections import IDLE_SECONDS, Connections
from adaptdock.serving.http.service import Service
from adaptdock.serving.json_logs import log, to_standard_error

SWITCH_SECONDS = 1e-4
"""After so long a thread gets Python back, not 5 ms: those that compute need it at every operation."""
TOKENS_OF_A_CORE = 384
"""With so many in a batch a core computes as many a second as with more (measured on MiniLM, float32 and bfloat16)."""


ACCEPTED_AT_ONCE = 128
"""Connections that are accepted before those that give way are closed: fewer than :data:`OTHER_FILES`."""
BACKLOG = 2048
"""Connections that the system keeps until they are accepted."""
AFTER_DRAIN = 5.0
"""Seconds after the time to drain at which the process ends, whatever hangs."""
OTHER_FILES = 256
"""Files that a process opens beside its connections, at most."""
UNFINISHED = 1
"""Exit status of a process that could not end in order."""


class Server(uvicorn.Server):
    """A server that tells the service at once when it is told to stop, so that /readyz says so.

    When the time to drain is over, what waits is answered with 503; soon after, the process ends whatever hangs.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._limit = threading.Thread(target=self._end, name="limit of the drain", daemon=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, with a longer queue than the connections that asyncio accepts at once."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End in order; a second Ctrl-C waits for nothing."""
        log("stopping", signal=sig)
        self._service.stopping()
        if not self.should_exit:
            self._limit.start()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _end(self) -> None:
        time.sleep(self._service.options.drain)
        self._service.batcher.abandon()
        time.sleep(AFTER_DRAIN)
        log("ended before all was complete", drain=self._service.options.drain)
        os._exit(UNFINISHED)


def serve(options: ServingOptions, load: LoadOptions) -> None:
    """Serve until a signal comes; requests under way are answered first.

    Raises :class:`UsageError` where the address cannot be listened on, :class:`LockedError` where another process
    serves from the state folder, and what loading the backbone raises.
    """
    to_standard_error()
    sys.setswitchinterval(SWITCH_SECONDS)
    tokens = read_tokens(Path(options.tokens).expanduser()) if options.tokens else Tokens()
    hear_hang_up(tokens)
    listening = listen(options)
    with listening, owned(options.state_folder):  # before the backbone, whose loading takes its time
        backbone = load_backbone(options.backbone, load)
        options = within_files(at_work(options, backbone.device))
        service = Service(Dock(backbone), options)
        config = uvicorn.Config(
            make_app(service, tokens),
            http=patient(options.receive_timeout, Connections(options.connections)),
            ws="none",
            backlog=ACCEPTED_AT_ONCE,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=int(max(1, options.receive_timeout)),
            timeout_graceful_shutdown=int(options.drain) + 1,
            h11_max_incomplete_event_size=64 * 1024,
        )
        host, port = listening.getsockname()[:2]
        log("listening", host=host, port=port)
        gc.collect()
        gc.freeze()  # what is there stays: to look through it for garbage would keep everybody waiting
        asyncio.run(Server(config, service).serve(sockets=[listening]))


def within_files(options: ServingOptions) -> ServingOptions:
    """Raise this process's limit of open files as its connections need it; where that is not enough, have fewer."""
    try:
        import resource
    except ImportError:
        return options  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = options.connections + options.connections // 2 + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return options
    limit = needed if hard == resource.RLIM_INFINITY else max(soft, min(needed, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    possible = max(1, min(options.connections, (limit - OTHER_FILES) * 2 // 3))
    if possible < options.connections:
        reason = f"the limit of open files is {limit} (ulimit -n)"
        log("fewer connections", wanted=options.connections, possible=possible, reason=reason)
    return options.model_copy(update={"connections": possible})


def hear_hang_up(tokens: Tokens) -> None:
    """Read the tokens again at SIGHUP, which ends the process only if its terminal has gone and there are none."""
    hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
    if hang_up is None or threading.current_thread() is not threading.main_thread():
        return

    def heard(sig: int, frame: Any) -> None:
        log("hang-up", signal=sig)
        if isinstance(tokens, TokensFile):
            tokens.refresh(at_once=True)
        elif sys.stdin is not None and sys.stdin.isatty():
            signal.raise_signal(signal.SIGTERM)

    signal.signal(hang_up, heard)


def at_work(options: ServingOptions, device: torch.device) -> ServingOptions:
    """Decide how many batches are computed at a time and how large one is; let each have its share of a CPU's cores.

    Threads that share an operation wait for the slowest of them; those that have a batch each do not. A core computes
    no more in a larger batch, which only waits longer.
    """
    cores = torch.get_num_threads()
    workers = options.workers or (2 if device.type == "cpu" and cores > 1 else 1)
    share = max(1, cores // workers)
    torch.set_num_threads(share)
    tokens = options.batch_tokens
    if device.type == "cpu" and "batch_tokens" not in options.model_fields_set:
        tokens = min(tokens, share * TOKENS_OF_A_CORE)
    return options.model_copy(update={"workers": workers, "batch_tokens": tokens})


def listen(options: ServingOptions) -> socket.socket:
    """Return a socket that listens; raise :class:`UsageError` where that cannot be."""
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((options.host, options.port))
        return found
    except OSError as error:
        raise UsageError(f"{options.host}:{options.port} cannot be listened on: {error.strerror or error}") from None


def patient(seconds: float, connections: Connections | None = None) -> type[H11Protocol]:
    """Return a protocol that closes a connection on which the head of a request is not complete in that time.

    ``connections`` are those of the process, which it keeps count of.
    """
    counted = Connections(sys.maxsize) if connections is None else connections

    class Patient(H11Protocol):
        """HTTP/1.1, with a limit on how long a request's head takes."""

        _timer: asyncio.TimerHandle | None = None
        _silence: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            counted.opened(transport)
            self._wait_for_head()
            self._listen()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait_for_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.response_complete:  # else the next request was there already
                counted.idle(self.transport)
                self._listen()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            counted.closed(self.transport)
            self._forget_timer()
            if self._silence is not None:
                self._silence.cancel()

        def _wait_for_head(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                counted.busy(self.transport)
                self._forget_timer()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self._give_up)

        def _listen(self, again: bool = True) -> None:
            """Find the connection silent later, after data that came meanwhile was read, however late the loop is.

            A timer that is due comes after the data of the same round of the loop. The first round may be the one in
            which the loop begins to look for data, so there are two timers.
            """
            if self._silence is not None:
                self._silence.cancel()
            after = (self._listen, False) if again else (counted.silent, self.transport)
            self._silence = self.loop.call_later(IDLE_SECONDS / 2, *after)

        def _give_up(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

        def _forget_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Patient
