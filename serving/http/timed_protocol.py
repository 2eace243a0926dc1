"""HTTP/1.1 with limits of time and size for request heads, and with the process's open connections tracked."""

import asyncio
import sys
from typing import Any, ClassVar, Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from adaptdock.serving.http.connections import IDLE_SECONDS, Connections
from adaptdock.serving.http.raw_responses import raw_refusal
from adaptdock.serving.schemas import Problem

HEAD_BYTES = 64 * 1024
"""Upper limit of a request head that is not complete after the data received so far."""


class Shedding(Protocol):
    """Refuses requests that nobody has time to read."""

    def refusal(self, data: bytes) -> bytes | None:
        """Return the response with which the request that begins with ``data`` is refused unread, or None."""


def timed_protocol(
    seconds: float,
    connections: Connections | None = None,
    shedding: Shedding | None = None,
) -> type[HttpToolsProtocol]:
    """Return an HTTP/1.1 protocol that closes a connection whose request head is incomplete after ``seconds``.

    ``connections`` tracks the open connections of the process. ``shedding`` sees the first bytes of each request.
    """
    tracked = Connections(sys.maxsize) if connections is None else connections

    class BoundProtocol(TimedProtocol):  # uvicorn takes a class and sets no values of its own on the instances
        head_seconds = seconds
        tracked_connections = tracked
        load_shedding = shedding

    return BoundProtocol


class TimedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with a timeout for request heads, for the seconds and connections of a subclass."""

    head_seconds: ClassVar[float]
    tracked_connections: ClassVar[Connections]
    load_shedding: ClassVar[Shedding | None]
    _timer: asyncio.TimerHandle | None = None
    _silence: asyncio.TimerHandle | None = None
    _head_bytes = 0
    """Bytes received since the last request, as long as its successor's head is incomplete."""

    def connection_made(self, transport: Any) -> None:
        """Wait for the head of the first request."""
        super().connection_made(transport)
        self.tracked_connections.opened(transport)
        self._wait_for_head()
        self._listen()

    def data_received(self, data: bytes) -> None:
        """Read data; a complete head stops the timer, and one that is too long ends the connection."""
        if self.load_shedding is not None and self._reads_head and not self._head_bytes:
            response = self.load_shedding.refusal(data)
            if response is not None:
                self.transport.write(response)
                self.transport.close()
                return
        super().data_received(data)
        if self._reads_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.close()
        else:
            self._head_bytes = 0
        self._wait_for_head()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP as JSON, with the reason of the parser, and close the connection."""
        message = f"the request is not valid HTTP/1.1: {sys.exception() or msg}"
        self.transport.write(raw_refusal(400, Problem(message=message, type="invalid_request_error")))
        self.transport.close()

    def on_response_complete(self) -> None:
        """Mark the connection as idle, unless the next pipelined request has begun."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self.tracked_connections.idle(self.transport)
            self._listen()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        super().connection_lost(exc)
        self.tracked_connections.closed(self.transport)
        self._forget_timer()
        if self._silence is not None:
            self._silence.cancel()

    @property
    def _reads_head(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _wait_for_head(self) -> None:
        if not self._reads_head:
            self.tracked_connections.busy(self.transport)
            self._forget_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _listen(self, again: bool = True) -> None:
        """Mark the connection as silent later, after any data that has arrived meanwhile, even if the loop is late.

        asyncio runs a due timer after the data of the same round. The loop may begin to poll for data only in the
        first round, so there are two timers.
        """
        if self._silence is not None:
            self._silence.cancel()
        after = (self._listen, False) if again else (self.tracked_connections.silent, self.transport)
        self._silence = self.loop.call_later(IDLE_SECONDS / 2, *after)

    def _give_up(self) -> None:
        self._timer = None
        if self._reads_head:
            self.transport.close()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
