"""Fairness: queues of which each gets its share, whatever stands in the others.

Deficit round robin (Shreedhar and Varghese, 1995): in each round every queue is given a quantum of tokens, and
what it does not use stays to its credit as long as something waits in it.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueues(Generic[Item]):
    """Queues by name; items are taken from all in turn, each queue in its own order.

    ``cost`` tells the tokens of an item, ``quantum`` how many a queue is given at a time.
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
        """Let an item wait in the queue of that name."""
        self._queues.setdefault(name, deque()).append(item)
        self._credit.setdefault(name, 0)
        self.tokens += self._cost(item)
        self.count += 1

    def take(self, tokens: int, items: int | None = None, without: Collection[str] = ()) -> list[Item]:
        """Take items of this many tokens together, one at least if there is any; at most so many ``items``.

        The queues ``without`` which it goes keep all they have.
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
                del self._queues[name], self._credit[name]
        return taken

    def _turns(self, without: Collection[str]) -> Iterator[tuple[str, Item]]:
        """Yield the item whose turn it is, until there is none; who asks takes it, or stops."""
        while (name := next((name for name in self._queues if name not in without), None)) is not None:
            item = self._queues[name][0]
            if self._credit[name] >= self._cost(item):
                yield name, item
            else:
                self._credit[name] += self._quantum
                self._queues.move_to_end(name)
