"""Connections and requests at a time: what is too much gives way, and probes are always answered."""

from collections import OrderedDict
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from adaptdock.serving.http.middleware import refuse
from adaptdock.serving.http.service import Service

PROBES = ("/healthz", "/readyz")
IDLE_SECONDS = 5.0
"""So long a client of a busy machine may take from its connection to its request."""


class Transport(Protocol):
    """A connection."""

    def abort(self) -> None:
        """Close it now, whether or not all has been sent."""


class Connections:
    """The open connections of a process, of which the longest idle one is closed where there are too many.

    A connection is idle while no request is answered on it: it is new, its head is not complete, or it is kept alive.
    Beyond ``most`` those give way whose client had time to send something, beyond ``most`` and a half any that is idle.
    The half is for probes, and for requests that are refused at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: OrderedDict[Transport, bool] = OrderedDict()  # whether it had time, in the order of its idleness
        self._busy: set[Transport] = set()

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def opened(self, transport: Transport) -> None:
        """Add a connection; where there are too many, close the longest idle one, which may be itself."""
        self._idle[transport] = False
        oldest, had_time = next(iter(self._idle.items()))
        if len(self) > (self._most if had_time else self._most + self._most // 2):
            self.closed(oldest)
            oldest.abort()

    def silent(self, transport: Transport) -> None:
        """Note that an idle connection sent no request, though it had time to."""
        if transport in self._idle:
            self._idle[transport] = True

    def busy(self, transport: Transport) -> None:
        """Note that a request is being answered."""
        if self._idle.pop(transport, None) is not None:
            self._busy.add(transport)

    def idle(self, transport: Transport) -> None:
        """Note that a request was answered."""
        if transport in self._busy:
            self._busy.discard(transport)
            self._idle[transport] = False

    def closed(self, transport: Transport) -> None:
        """Forget a connection."""
        self._idle.pop(transport, None)
        self._busy.discard(transport)


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
