"""The server process: limits, signals, and uvicorn around the application."""

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import torch
import uvicorn

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.locks import SharedLock, owned
from adaptdock.plugins.contracts import LoadOptions
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.access_tokens import Tokens, read_tokens
from adaptdock.serving.http.app import make_app
from adaptdock.serving.http.connections import Connections
from adaptdock.serving.http.load_shedding import LoadShedding
from adaptdock.serving.http.reloading import HangUp
from adaptdock.serving.http.service import Service
from adaptdock.serving.http.timed_protocol import timed_protocol
from adaptdock.serving.json_logs import log, to_standard_error
from adaptdock.serving.tracing import tracing

SWITCH_SECONDS = 1e-4
"""Seconds until a waiting thread gets the GIL (Python: 5 ms): computing threads need the GIL at every operation."""
TOKENS_OF_A_CORE = 384
"""Tokens per batch and core. Larger batches give no more tokens per second (MiniLM, float32 and bfloat16)."""


ACCEPTED_AT_ONCE = 128
"""Connections accepted before idle ones are closed; must be less than :data:`OTHER_FILES`."""
BACKLOG = 2048
"""Length of the system's queue of connections."""
AFTER_DRAIN = 5.0
"""Seconds after the drain time until a hanging process exits."""
OTHER_FILES = 256
"""Upper limit of open files besides connections."""
UNFINISHED = 1
"""Exit status of a process that could not stop in order."""


class Server(uvicorn.Server):
    """A server that notifies the service at the first stop signal, so that /readyz fails at once.

    After SIGTERM it still accepts requests for ``drain_delay`` seconds: whoever sends them may learn only by a
    probe that it stops. After the drain time waiting requests get 503; :data:`AFTER_DRAIN` seconds later a hanging
    process exits.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._limit: threading.Thread | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with a longer queue than asyncio's number of accepts per round."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop in order. A second signal ends the delay, and a second Ctrl-C stops at once."""
        log("stopping", signal=sig)
        self.force_exit = self.should_exit and sig == signal.SIGINT
        delay = self._service.options.drain_delay if self._limit is None and sig == signal.SIGTERM else 0.0
        if delay:
            self._service.leave()
        else:
            self._close()
        if self._limit is None:
            self._limit = threading.Thread(target=self._end, args=(delay,), name="limit of the drain", daemon=True)
            self._limit.start()

    def _close(self) -> None:
        """Refuse new requests, and close the listening socket in the next round of uvicorn's loop."""
        self._service.stopping()
        self.should_exit = True

    def _end(self, delay: float) -> None:
        sleep(delay)
        self._close()
        sleep(self._service.options.drain)
        self._service.batcher.abandon()
        sleep(AFTER_DRAIN)
        log("ended before all was complete", drain=self._service.options.drain)
        os._exit(UNFINISHED)  # sys.exit() would end only this thread


def serve(
    options: ServingOptions,
    load: LoadOptions,
    read: Callable[[], ServingOptions] | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until a stop signal, then answer the requests in progress. ``read`` reads the options again at SIGHUP.

    ``announce`` is called with the address of the page before the first request.
    Raises :class:`UsageError` for an address that cannot be bound, :class:`LockedError` for a state folder in use by
    another process, and the errors of loading the backbone.
    """
    with to_standard_error():
        _serve(options, load, read, announce)


def _serve(
    options: ServingOptions,
    load: LoadOptions,
    read: Callable[[], ServingOptions] | None,
    announce: Callable[[str], None] | None,
) -> None:
    tokens = read_tokens(Path(options.tokens).expanduser()) if options.tokens else Tokens()
    hang_up = HangUp(tokens, options, read)
    hang_up.install()
    listening = listen(options)
    folder = options.state_folder
    # before the backbone, which takes long to load
    with listening, SharedLock(folder) if options.shared else owned(folder):
        service = hang_up.service = open_service(within_file_limit(options), load)
        options = service.options
        config = uvicorn.Config(
            make_app(service, tokens),
            http=timed_protocol(
                options.receive_timeout, Connections(options.connections), LoadShedding(service, tokens)
            ),
            loop="asyncio",  # uvloop accepts one connection a round, so under a flood clients wait outside of any queue
            ws="none",
            backlog=ACCEPTED_AT_ONCE,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=int(max(1, options.receive_timeout)),
            timeout_graceful_shutdown=int(options.drain) + 1,
        )
        host, port = listening.getsockname()[:2]
        log("listening", host=host, port=port)
        if announce is not None:
            announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        gc.collect()
        gc.freeze()  # startup objects live on: a full collection over them would stall all requests
        Server(config, service).run(sockets=[listening])


def open_service(options: ServingOptions, load: LoadOptions) -> Service:
    """Load the backbone and return its service, sized for the device."""
    sys.setswitchinterval(SWITCH_SECONDS)
    traces = tracing()  # before the backbone, which takes long to load
    log("loading", backbone=options.backbone)
    backbone = load_backbone(options.backbone, load)
    return Service(Dock(backbone), sized_for_device(options, backbone.device), traces)


def within_file_limit(options: ServingOptions) -> ServingOptions:
    """Raise the limit of open files to fit the connections; reduce the connections to a fixed limit."""
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
    possible = max(1, min(options.connections, (limit - OTHER_FILES) * 2 // 3))  # solves `needed` for connections
    if possible < options.connections:
        reason = f"the limit of open files is {limit} (ulimit -n)"
        log("fewer connections", wanted=options.connections, possible=possible, reason=reason)
    return options.model_copy(update={"connections": possible})


def sized_for_device(options: ServingOptions, device: torch.device) -> ServingOptions:
    """Return options with workers and batch tokens for the device, and divide the CPU cores among the workers.

    Threads that share an operation wait for the slowest of them; with a batch per worker no thread waits. A larger
    batch only takes longer, as a core computes no more tokens per second.
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
    """Return a listening socket; raise :class:`UsageError` for an address that cannot be bound."""
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for TIME_WAIT
        listening.bind((options.host, options.port))
        return listening
    except OSError as error:
        raise UsageError(f"{options.host}:{options.port} cannot be listened on: {error.strerror or error}") from None
