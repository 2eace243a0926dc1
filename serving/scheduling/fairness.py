"""Fairness: queues that each get their share, whatever the load of the others.

Deficit round robin (Shreedhar and Varghese, 1995): in each round every queue gets a quantum of tokens. An unused rest
is credited as long as the queue is not empty.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueues(Generic[Item]):
    """Queues by name. Items are taken from all queues in turn, first in, first out within a queue.

    ``cost`` returns the tokens of an item; ``quantum`` is the number of tokens per queue and round.
    """

    def __init__(self, cost: Callable[[Item], int], quantum: int) -> None:
        self._cost, self._quantum = cost, quantum
        self._queues: OrderedDict[str, deque[Item]] = OrderedDict()
        self._credit: dict[str, int] = {}
        self.tokens = 0
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def put(self, name: str, item: Item) -> None:
        """Add an item to the queue of that name."""
        self._queues.setdefault(name, deque()).append(item)
        self._credit.setdefault(name, 0)
        self.tokens += self._cost(item)
        self.count += 1

    def take(self, tokens: int, items: int | None = None, without: Collection[str] = ()) -> list[Item]:
        """Take items of at most ``tokens`` in total, but at least one if there is any; at most ``items`` items.

        The queues in ``without`` are skipped.
        """
        taken: list[Item] = []
        room = tokens
        for name, item in self._turns(without):
            cost = self._cost(item)
            if (taken and cost > room) or len(taken) == items:
                break
            self._queues[name].popleft()
            self._credit[name] -= cost
            self.tokens -= cost
            self.count -= 1
            room -= cost
            taken.append(item)
            if not self._queues[name]:
                del self._queues[name], self._credit[name]  # no credit for idle time
        return taken

    def _turns(self, without: Collection[str]) -> Iterator[tuple[str, Item]]:
        """Yield the next item in turn. The caller removes it, or stops the iteration."""
        while (name := next((name for name in self._queues if name not in without), None)) is not None:
            item = self._queues[name][0]
            if self._credit[name] >= self._cost(item):
                yield name, item
            else:
                self._credit[name] += self._quantum
                self._queues.move_to_end(name)
