"""HTTP/1.1 with a timeout for request heads, and with the process's open connections tracked."""

import asyncio
import sys
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from adaptdock.serving.http.connections import IDLE_SECONDS, Connections


def timed_protocol(seconds: float, connections: Connections | None = None) -> type[H11Protocol]:
    """Return an HTTP/1.1 protocol that closes a connection whose request head is incomplete after ``seconds``.

    ``connections`` tracks the open connections of the process.
    """
    tracked = Connections(sys.maxsize) if connections is None else connections

    class BoundProtocol(TimedProtocol):  # uvicorn takes a class and sets no values of its own on the instances
        head_seconds = seconds
        tracked_connections = tracked

    return BoundProtocol


class TimedProtocol(H11Protocol):
    """HTTP/1.1 with a timeout for request heads, for the seconds and connections of a subclass."""

    head_seconds: ClassVar[float]
    tracked_connections: ClassVar[Connections]
    _timer: asyncio.TimerHandle | None = None
    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the head of the first request."""
        super().connection_made(transport)
        self.tracked_connections.opened(transport)
        self._wait_for_head()
        self._listen()

    def data_received(self, data: bytes) -> None:
        """Read data; a complete head stops the timer."""
        super().data_received(data)
        self._wait_for_head()

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

    def _wait_for_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
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
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
