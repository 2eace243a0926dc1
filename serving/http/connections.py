"""The limit of open connections: idle ones give way to new ones, so that probes always get through."""

from collections import OrderedDict
from typing import Protocol

IDLE_SECONDS = 5.0
"""Seconds that a client on a busy machine may need from its connection to its request."""


class Transport(Protocol):
    """One TCP connection, as asyncio represents it."""

    def abort(self) -> None:
        """Close the connection at once, even with unsent data."""


class Connections:
    """The open connections of a process. With too many open, the longest idle connection is closed.

    A connection is idle without a running request: it is new, its head is incomplete, or it is kept alive. Beyond
    ``most`` connections, one is closed only if its client had time to send a request; beyond 1.5 times ``most``, any
    idle connection is. The half is for probes, and for requests that are refused at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: OrderedDict[Transport, bool] = OrderedDict()  # longest idle first; True after silent()
        self._busy: set[Transport] = set()

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def opened(self, transport: Transport) -> None:
        """Add a connection. With too many, close the longest idle connection, possibly the new one."""
        self._idle[transport] = False
        oldest, had_time = next(iter(self._idle.items()))
        if len(self) > (self._most if had_time else self._most + self._most // 2):
            self.closed(oldest)
            oldest.abort()

    def silent(self, transport: Transport) -> None:
        """Mark an idle connection whose client had time for a request but sent none."""
        if transport in self._idle:
            self._idle[transport] = True

    def busy(self, transport: Transport) -> None:
        """Mark a connection with a running request."""
        if self._idle.pop(transport, None) is not None:
            self._busy.add(transport)

    def idle(self, transport: Transport) -> None:
        """Mark a connection whose request was answered."""
        if transport in self._busy:
            self._busy.discard(transport)
            self._idle[transport] = False

    def closed(self, transport: Transport) -> None:
        """Remove a closed connection."""
        self._idle.pop(transport, None)
        self._busy.discard(transport)
