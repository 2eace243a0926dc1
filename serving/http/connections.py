"""Connections and requests at a time: what is too much gives way, and probes are always answered."""

from collections import OrderedDict
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from adaptdock.serving.http.middleware import refuse
from adaptdock.serving.http.service import Service

PROBES = ("/healthz", "/readyz")
RESERVE = 64
"""Connections beyond the limit, for probes and for requests that are refused at once."""


class Transport(Protocol):
    """A connection."""

    def abort(self) -> None:
        """Close it now, whether or not all has been sent."""


class Connections:
    """The open connections of a process, of which the longest idle one is closed where there are too many.

    A connection is idle while no request is answered on it: it is new, its head is not complete, or it is kept alive.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: OrderedDict[Transport, None] = OrderedDict()
        self._busy: set[Transport] = set()

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def opened(self, transport: Transport) -> None:
        """Add a connection; close another one for it, or itself where all others are busy and the reserve is used."""
        self._idle[transport] = None
        if len(self) > self._most and next(iter(self._idle)) is not transport:
            self._close(next(iter(self._idle)))
        elif len(self) > self._most + RESERVE:
            self._close(transport)

    def busy(self, transport: Transport) -> None:
        """Note that a request is being answered."""
        if transport in self._idle:
            del self._idle[transport]
            self._busy.add(transport)

    def idle(self, transport: Transport) -> None:
        """Note that a request was answered."""
        if transport in self._busy:
            self._busy.discard(transport)
            self._idle[transport] = None

    def closed(self, transport: Transport) -> None:
        """Forget a connection."""
        self._idle.pop(transport, None)
        self._busy.discard(transport)

    def _close(self, transport: Transport) -> None:
        self.closed(transport)
        transport.abort()


class Admission:
    """Refuses requests beyond the limit of those that are answered at a time, before anything of them is read."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        if self._count >= self._service.options.connections:
            seconds = self._service.batcher.patience()
            message = f"{self._count} requests are being answered already: try again in {seconds} s"
            headers = {"retry-after": str(seconds), "connection": "close"}
            await refuse(scope, send, 503, message, "unavailable_error", code="busy", headers=headers)
            return
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1
