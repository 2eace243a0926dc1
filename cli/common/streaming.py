"""Standard input of an interactive program: lines are read as soon as they arrive."""

import os
import stat
import threading
from collections.abc import Iterator
from itertools import islice
from queue import Empty, Queue
from typing import BinaryIO

from adaptdock.engine.data.sources import Input

PIECE = 65536
"""Largest number of bytes in a read."""


class Arriving:
    """Inputs that a thread reads as they arrive, at most ``ahead`` of them in advance."""

    def __init__(self, items: Iterator[Input], ahead: int) -> None:
        self._queue: Queue[Input | BaseException] = Queue(ahead)
        self._end: BaseException | None = None
        threading.Thread(target=self._read, args=(items,), name="inputs", daemon=True).start()

    def _read(self, items: Iterator[Input]) -> None:
        try:
            for item in items:
                self._queue.put(item)
            self._queue.put(StopIteration())
        except BaseException as error:  # raised again where the inputs are taken
            self._queue.put(error)

    def take(self, size: int) -> list[Input]:
        """Wait for an input, and return it with all others that have arrived, at most ``size``; none at the end.

        An error is raised after all inputs before it are taken.
        """
        taken: list[Input] = []
        while len(taken) < size and self._end is None:
            try:
                item = self._queue.get(block=not taken)
            except Empty:
                return taken
            if isinstance(item, BaseException):
                self._end = item
            else:
                taken.append(item)
        if not taken and not isinstance(self._end, StopIteration | None):
            raise self._end
        return taken


def take(items: Iterator[Input] | Arriving, size: int) -> list[Input]:
    """Return the next inputs, at most ``size``; none at the end."""
    return items.take(size) if isinstance(items, Arriving) else list(islice(items, size))


def arrives(stream: BinaryIO) -> bool:
    """Return whether more data may arrive: a stream is a pipe, terminal or socket, not a file."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except OSError:  # it has no descriptor
        return False
    return not stat.S_ISREG(mode)


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a pipe or terminal as they arrive.

    The descriptor is read directly: a buffered stream with a waiting thread cannot be closed at exit.
    """
    rest = b""
    while piece := os.read(stream.fileno(), PIECE):
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
