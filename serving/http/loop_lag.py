"""The lag of the event loop: how long a request waits to be read, before any queue counts it."""

import asyncio
import time
from collections import Counter

PERIOD = 0.05
"""Seconds between two measurements."""
REMEMBERED = 0.7
"""Weight of earlier measurements: a single stall is no overload."""
LARGEST = 0.1
"""Seconds of lag beyond which new requests are refused before their body is read."""
BUSY = 64
"""Fewer requests at the same time cannot be what delays the loop."""


class LoopLag:
    """The moving average of the lag, in seconds, and the running requests by client, without probes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.requests: Counter[str] = Counter()

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            started = time.monotonic()
            await asyncio.sleep(PERIOD)
            self.measure(time.monotonic() - started - PERIOD)

    def measure(self, lag: float) -> None:
        """Count a measurement, of at most twice the limit: one stall passes, however long it was."""
        self.seconds = REMEMBERED * self.seconds + (1 - REMEMBERED) * min(max(0.0, lag), 2 * LARGEST)

    def excessive(self, running: int) -> bool:
        """Return whether so many running requests delay the loop too much."""
        return running >= BUSY and self.seconds > LARGEST

    def sheds(self, client: str) -> bool:
        """Return whether another request of a client is refused: the loop is late, and the client has its share."""
        total = self.requests.total()
        return self.excessive(total) and self.requests[client] >= total // len(self.requests.keys() | {client})
