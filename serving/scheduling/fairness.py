"""Fairness: clients get equal shares of the computation, and so do the adapters of a client.

Deficit round robin (Shreedhar and Varghese, 1995) on two levels: in each round every client gets a quantum of tokens,
and within a client every adapter does. An unused rest is credited as long as the queue is not empty.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

Item = TypeVar("Item")
Place = tuple[str, str]
"""A client and an adapter, which have a queue together."""


class Rotation:
    """Names that take turns, each with its credit in tokens."""

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._credit: OrderedDict[str, int] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._credit

    def __bool__(self) -> bool:
        return bool(self._credit)

    def add(self, name: str) -> None:
        """Add a name behind the others, without credit."""
        self._credit[name] = 0

    def remove(self, name: str) -> None:
        """Remove a name with its credit: there is no credit for idle time."""
        del self._credit[name]

    def charge(self, name: str, cost: int) -> None:
        """Take the cost of an item off the credit of a name."""
        self._credit[name] -= cost

    def turn(self, cost: Callable[[str], int | None]) -> str | None:
        """Return the name whose turn it is. ``cost`` is that of its next item, or None to skip the name."""
        for name in iter(lambda: next((name for name in self._credit if cost(name) is not None), None), None):
            if self._credit[name] >= (cost(name) or 0):
                return name
            self._credit[name] += self._quantum
            self._credit.move_to_end(name)
        return None


class FairQueues(Generic[Item]):
    """Queues by client and adapter. Items are taken from all queues in turn, first in, first out within a queue.

    ``cost`` returns the tokens of an item; ``quantum`` is the number of tokens per turn.
    """

    def __init__(self, cost: Callable[[Item], int], quantum: int) -> None:
        self._cost, self._quantum = cost, quantum
        self._clients = Rotation(quantum)
        self._adapters: dict[str, Rotation] = {}
        self._queues: dict[Place, deque[Item]] = {}
        self.tokens = 0
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def put(self, name: str, item: Item, client: str = "") -> None:
        """Add an item to the queue of an adapter and a client."""
        if client not in self._clients:
            self._clients.add(client)
            self._adapters[client] = Rotation(self._quantum)
        if name not in self._adapters[client]:
            self._adapters[client].add(name)
            self._queues[client, name] = deque()
        self._queues[client, name].append(item)
        self.tokens += self._cost(item)
        self.count += 1

    def take(
        self,
        tokens: int,
        items: int | None = None,
        without: Collection[Place] = (),
        without_clients: Collection[str] = (),
    ) -> list[Item]:
        """Take items of at most ``tokens`` in total, but at least one if there is any; at most ``items`` items.

        The queues in ``without`` and those of ``without_clients`` are skipped.
        """
        taken: list[Item] = []
        room = tokens
        while (place := self._turn(without, without_clients)) is not None:
            cost = self._cost(self._queues[place][0])
            if (taken and cost > room) or len(taken) == items:
                break
            room -= cost
            taken.append(self._pop(place, cost))
        return taken

    def _turn(self, without: Collection[Place], without_clients: Collection[str]) -> Place | None:
        """Return the queue whose turn it is."""
        names: dict[str, str | None] = {}

        def next_cost(client: str) -> int | None:
            if client in without_clients:
                return None
            names[client] = name = self._adapters[client].turn(
                lambda name: None if (client, name) in without else self._cost(self._queues[client, name][0])
            )
            return None if name is None else self._cost(self._queues[client, name][0])

        client = self._clients.turn(next_cost)
        name = None if client is None else names[client]
        return None if client is None or name is None else (client, name)

    def _pop(self, place: Place, cost: int) -> Item:
        client, name = place
        item = self._queues[place].popleft()
        self.tokens -= cost
        self.count -= 1
        self._clients.charge(client, cost)
        self._adapters[client].charge(name, cost)
        if not self._queues[place]:
            del self._queues[place]
            self._adapters[client].remove(name)
        if not self._adapters[client]:
            del self._adapters[client]
            self._clients.remove(client)
        return item
