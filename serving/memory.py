"""Memory: what a flood of requests has allocated goes back to the system.

The allocator of glibc keeps freed memory in the arenas of its threads. The trim takes milliseconds, so it runs once
after a flood, not after every request.
"""

import ctypes
import sys

FLOOD = 64
"""Number of waiting inputs that makes a flood."""


class MemoryTrim:
    """Returns freed memory to the system once a flood is over. :meth:`look` is called now and then."""

    def __init__(self) -> None:
        self._flooded = False

    def look(self, waiting: int) -> bool:
        """Trim the memory if no input waits any more after a flood, and tell whether."""
        self._flooded = self._flooded or waiting >= FLOOD
        if not self._flooded or waiting:
            return False
        self._flooded = False
        trim()
        return True


def trim() -> None:
    """Return freed memory to the system, where the C library can."""
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if malloc_trim is not None:
            malloc_trim(0)
