"""Groups of records with a common key, held as arrays of numbers."""

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from adaptdock.plugins.toolkit.hashes import NOTHING, Hashes

Numbers = NDArray[np.int64]


class Groups(Sequence[list[int]]):
    """Sets of record numbers, in the order of their first members, with 16 bytes for each record.

    ``members`` has the numbers of each group after those of the group before it, and ``starts`` where each begins.
    """

    def __init__(self, members: Numbers, starts: Numbers) -> None:
        self.members, self.starts = members, starts

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, place: int) -> list[int]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[int]]: ...
    def __getitem__(self, place: int | slice) -> list[int] | list[list[int]]:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        number = range(len(self))[place]
        end = self.starts[number + 1] if number + 1 < len(self) else len(self.members)
        return [int(member) for member in self.members[self.starts[number] : end]]


def connected(*keys: Hashes) -> Groups:
    """Return the components of the graph that links records with an equal key.

    Each of ``keys`` has a key for each record, or :data:`NOTHING`.
    """
    numbers = _components(keys)
    counts = np.bincount(numbers, minlength=len(numbers))
    counts = counts[counts > 0]
    return Groups(np.argsort(numbers, kind="stable"), np.cumsum(counts) - counts)


def _components(keys: Sequence[Hashes]) -> Numbers:
    """Return the number of the first record in the component of each record."""
    count = len(keys[0])
    places = [_places(of_records) for of_records in keys]
    linking = [number for number, of_records in enumerate(places) if not np.array_equal(of_records, np.arange(count))]
    if len(linking) < 2:
        return places[linking[0] if linking else 0]
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    records = np.tile(np.arange(count), len(places))
    links = coo_matrix((np.ones(len(records), dtype=np.int8), (records, np.concatenate(places))), (count, count))
    _, numbers = connected_components(links, directed=False)
    return _places(numbers.astype(np.uint64) + 1)


def _places(keys: Hashes) -> Numbers:
    """Return the number of the first record with the key of each record; of records without a key their own."""
    order = np.argsort(keys, kind="stable")  # the first record of each key is first among those with it
    ordered = keys[order]
    is_first = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)] | (ordered == NOTHING)
    places = np.empty_like(order)
    places[order] = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    return places
