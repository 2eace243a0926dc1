"""The stacked weights of recent batches: rows with the adapters of an earlier batch are not stacked again."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence

import torch

from adaptdock.engine.core.slots import Gathered, Slot

LIMIT = 64 * 2**20
"""Bytes of stacked weights to keep; the least recently used are dropped first."""

Key = tuple[torch.dtype, tuple[int, ...]]
"""The precision of stacked weights, and the numbers of their slots."""


class GatheredCache:
    """Gathered weights of recent batches, by the slots of their rows. Thread-safe.

    A slot never changes and its number is never given to another, so an entry cannot be outdated. :meth:`forget` frees
    the memory of entries that no batch will ask for.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit, self._bytes = limit, 0
        self._lock = threading.Lock()
        self._recent: OrderedDict[Key, Gathered] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """The bytes of all entries when all their pages are stacked."""
        return self._bytes

    def gathered(self, slots: Sequence[Slot], dtype: torch.dtype) -> Gathered:
        """Return the gathered weights of rows with these slots."""
        latest = Gathered(slots, dtype)
        # Tensors from inference mode cannot be used where gradients are computed.
        if not torch.is_inference_mode_enabled() or latest.nbytes > self._limit // 2:
            return latest
        key = dtype, tuple(slot.number for slot in latest.slots)
        with self._lock:
            known = self._recent.setdefault(key, latest)
            self._recent.move_to_end(key)
            if known is latest:
                self._bytes += latest.nbytes
                while self._bytes > self._limit:
                    self._bytes -= self._recent.popitem(last=False)[1].nbytes
            return known

    def forget(self, slots: Collection[Slot]) -> None:
        """Drop all entries with any of these slots."""
        numbers = {slot.number for slot in slots}
        with self._lock:
            for key in [key for key in self._recent if not numbers.isdisjoint(key[1])]:
                self._bytes -= self._recent.pop(key).nbytes
