"""Sequences of many items: a list while they are few, else a temporary file that is read item by item.

A file holds the records, features or predictions of large data, so that memory stays flat. :mod:`marshal` writes texts,
numbers, lists, tuples and dicts faster than other formats. The file has no name, and only its process reads it. Items
that marshal cannot write (dates, arrays) stay in memory.
"""

import marshal
import os
import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Generic, TypeVar, overload

from adaptdock.errors import AdaptError

Item = TypeVar("Item")

IN_MEMORY = 4 * 2**20
"""Bytes in the file from which a sequence is not a list; as objects, items take three to five times as much."""
READ_AHEAD = 2**18
"""Bytes that are read at once where items are read in their order."""
LARGEST_PART = 1024
"""Most items whose size is measured together."""


@dataclass(frozen=True)
class Form(Generic[Item]):
    """How items become values that :mod:`marshal` writes, and how values become items."""

    pack: Callable[[Item], Any]
    unpack: Callable[[Any], Item]


def stored(items: Iterable[Item], form: Form[Item] | None = None) -> Sequence[Item]:
    """Return items as a list, or as a sequence in a temporary file if they are large.

    Each reading of an item in a file returns a new object. Raises :class:`AdaptError` where the disk
    is full.
    """
    storing = Storing(form)
    storing.extend(items)
    return storing.items


def joined(*parts: Sequence[Item]) -> Sequence[Item]:
    """Return the items of all parts as one sequence; the part itself if only one has any."""
    filled = [part for part in parts if len(part)]
    return filled[0] if len(filled) == 1 else stored(chain.from_iterable(filled))


def in_sequence(items: Iterable[Item]) -> Sequence[Item]:
    """Return items as a sequence: the same object if it is one, else as :func:`stored` does."""
    return items if isinstance(items, Sequence) else stored(items)


def picked(items: Sequence[Item], numbers: Sequence[int]) -> Sequence[Item]:
    """Return the items with these numbers; of a sequence in a file, a view that holds the numbers alone."""
    if isinstance(items, StoredSequence):
        return _Picked(items, numbers)
    if isinstance(items, _Picked):
        return _Picked(items.items, array("q", (items.numbers[number] for number in numbers)))
    return [items[number] for number in numbers]


class Storing(Generic[Item]):
    """Collects items: in a list, and in a file from the size at which :func:`stored` needs one."""

    def __init__(self, form: Form[Item] | None = None) -> None:
        self._form = form
        self._list: list[Item] = []
        self._file: StoredSequence[Item] | None = None
        self._size = self._measured = 0

    @property
    def items(self) -> Sequence[Item]:
        """The items so far."""
        return self._list if self._file is None else self._file

    def extend(self, items: Iterable[Item]) -> None:
        """Add items; raises :class:`AdaptError` where the disk is full."""
        iterator = iter(items)
        while self._file is None:
            length = max(1, min(len(self._list), LARGEST_PART))
            part = list(islice(iterator, length))
            self._list += part
            if len(part) < length:
                return
            self._size += _size(self._list[self._measured :], self._form)
            self._measured = len(self._list)
            if self._size > IN_MEMORY:
                self._file = StoredSequence(self._form)
                self._file.extend(_consumed(self._list))
        self._file.extend(iterator)


def _consumed(items: list[Item]) -> Iterator[Item]:
    """Yield items and drop them, so that they are not in memory and in the file at once."""
    items.reverse()
    while items:
        yield items.pop()


def _size(items: Sequence[Item], form: Form[Item] | None) -> int:
    try:
        values: Any = items if form is None else list(map(form.pack, items))
        return len(marshal.dumps(values))
    except ValueError:  # one of them stays in memory
        return sum(len(_written(item, form) or b"") for item in items)


def _written(item: Item, form: Form[Item] | None) -> bytes | None:
    """Return an item as bytes; None where marshal cannot write it."""
    try:
        value: Any = item if form is None else form.pack(item)
        return marshal.dumps(value)
    except ValueError:
        return None


def _no_room(error: OSError) -> AdaptError:
    return AdaptError(
        f"large data is put into a temporary file, and the folder {tempfile.gettempdir()} cannot hold it: "
        f"{error.strerror or error}. The environment variable TMPDIR names another folder"
    )


class _Compared(Sequence[Item]):
    """A sequence that equals any other sequence with the same items."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]


def _same(first: object, second: object) -> bool:
    return bool(first == second)


class StoredSequence(_Compared[Item]):
    """Items in a temporary file, with 8 bytes in memory for each."""

    def __init__(self, form: Form[Item] | None = None) -> None:
        self._form = form
        self._ends = array("Q", [0])
        self._in_memory: dict[int, Item] = {}
        try:
            self._file = tempfile.TemporaryFile(prefix="adaptdock-")  # noqa: SIM115 - closed with the sequence
        except OSError as error:
            raise _no_room(error) from error
        weakref.finalize(self, self._file.close)

    def extend(self, items: Iterable[Item]) -> None:
        """Add items at the end; raises :class:`AdaptError` where the disk is full."""
        pack = None if self._form is None else self._form.pack
        ends, position, write = self._ends, self._ends[-1], self._file.write
        for item in items:
            try:
                value: Any = item if pack is None else pack(item)
                written = marshal.dumps(value)
            except ValueError:  # the item stays in memory
                self._in_memory[len(self)] = item
                written = b""
            try:
                write(written)
            except OSError as error:
                raise _no_room(error) from error
            position += len(written)
            ends.append(position)
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from error

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        numbers = range(len(self))[place]
        return _Picked(self, numbers) if isinstance(numbers, range) else next(self.read([numbers]))

    def __iter__(self) -> Iterator[Item]:
        first = 0
        while first < len(self):
            end = max(first + 1, bisect_right(self._ends, self._ends[first] + READ_AHEAD, first + 1) - 1)
            yield from self._read_run(range(first, end))
            first = end

    def read(self, numbers: Iterable[int]) -> Iterator[Item]:
        """Yield the items with these numbers; neighbours in the file are read together."""
        run: list[int] = []
        ends = self._ends
        for number in numbers:
            if run and not (run[-1] < number and ends[number + 1] - ends[run[0]] <= READ_AHEAD):
                yield from self._read_run(run)
                run = []
            run.append(number)
        if run:
            yield from self._read_run(run)

    def _read_run(self, numbers: Sequence[int]) -> Iterator[Item]:
        ends, start = self._ends, self._ends[numbers[0]]
        content = memoryview(os.pread(self._file.fileno(), ends[numbers[-1] + 1] - start, start))
        unpack = None if self._form is None else self._form.unpack
        for number in numbers:
            begin, end = ends[number] - start, ends[number + 1] - start
            if begin == end:  # marshal writes at least one byte
                yield self._in_memory[number]
            else:
                value = marshal.loads(content[begin:end])
                yield value if unpack is None else unpack(value)


class _Picked(_Compared[Item]):
    """Some of the items of a stored sequence."""

    def __init__(self, items: StoredSequence[Item], numbers: Sequence[int]) -> None:
        self.items, self.numbers = items, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        if isinstance(place, slice):
            return _Picked(self.items, self.numbers[place])
        return self.items[self.numbers[place]]

    def __iter__(self) -> Iterator[Item]:
        return self.items.read(self.numbers)
