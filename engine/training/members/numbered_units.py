"""The units of all tasks of a member as one sequence."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import overload

from adaptdock.plugins.contracts import Feature

Unit = tuple[int, list[Feature]]
"""The number of a task in the run, and windows that are drawn together."""


class NumberedUnits(Sequence[Unit]):
    """The units of tasks, one task after the other, each with the number of its task; nothing is copied."""

    def __init__(self, units: Mapping[int, Sequence[list[Feature]]]) -> None:
        self._numbers, self._units = list(units), list(units.values())
        self._starts = [0, *accumulate(map(len, self._units))]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, place: int) -> Unit: ...
    @overload
    def __getitem__(self, place: slice) -> list[Unit]: ...
    def __getitem__(self, place: int | slice) -> Unit | list[Unit]:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        number = range(len(self))[place]
        task = bisect_right(self._starts, number) - 1
        return self._numbers[task], self._units[task][number - self._starts[task]]
