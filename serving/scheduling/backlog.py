"""The backlog: the accepted inputs without an answer, and how long a new one would wait for them.

Under fair queues an input does not wait for everything that came before: other adapters of its client are computed as
far as its own adapter at most, and other clients as far as its own client at most.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


class Backlog:
    """Seconds of computation by client and adapter. The caller serializes the access."""

    def __init__(self) -> None:
        self._seconds: dict[str, dict[str, float]] = {}

    def add(self, client: str, name: str, seconds: float) -> None:
        """Add seconds, or take off negative ones; an adapter without seconds is forgotten."""
        by_name = self._seconds.setdefault(client, {})
        total = by_name.get(name, 0.0) + seconds
        if total > 1e-9:  # less is the rounding error of a sum of zero
            by_name[name] = total
        else:
            by_name.pop(name, None)
        if not by_name:
            del self._seconds[client]

    def wait(self, client: str, own: Mapping[str, float]) -> float:
        """Return the seconds until a new input of a client has its turn; ``own`` are those of an input by adapter.

        Of several adapters the last one counts.
        """
        by_name = self._seconds.get(client, {})
        others = [sum(seconds.values()) for name, seconds in self._seconds.items() if name != client]
        longest = 0.0
        for name, seconds in own.items():
            bound = by_name.get(name, 0.0) + seconds
            ahead = sum(min(waiting, bound) for adapter, waiting in by_name.items() if adapter != name) + bound
            longest = max(longest, ahead - seconds + sum(min(waiting, ahead) for waiting in others))
        return longest

    def drained(self, client: str) -> float:
        """Return the seconds until everything that a client waits for now is computed."""
        totals = {name: sum(seconds.values()) for name, seconds in self._seconds.items()}
        own = totals.get(client, 0.0)
        return sum(min(total, own) for total in totals.values())


class Waiting:
    """The numbers of waiting inputs. The caller serializes the access."""

    def __init__(self) -> None:
        self.by_client: Counter[str] = Counter()
        self.by_adapter: Counter[str] = Counter()
        self.by_place: Counter[tuple[str, str]] = Counter()
        """By client and adapter."""

    def add(self, client: str, name: str) -> None:
        """Count an input."""
        self.by_client[client] += 1
        self.by_adapter[name] += 1
        self.by_place[client, name] += 1

    def remove(self, client: str, name: str) -> None:
        """Count an answered input."""
        _count_down(self.by_client, client)
        _count_down(self.by_adapter, name)
        _count_down(self.by_place, (client, name))

    @property
    def total(self) -> int:
        """The number of waiting inputs."""
        return self.by_adapter.total()

    def room(self, client: str, limit: int) -> int:
        """Return how many more inputs of a client may wait if ``limit`` may in total.

        A full queue still has room for a client with less than its share, so the total is at most twice the limit.
        """
        return max(limit - self.total, limit // self._clients(client) - self.by_client[client])

    def room_of_adapter(self, client: str, name: str, limit: int) -> int:
        """Return how many more inputs of a client may wait for an adapter; a share of the limit is left as above."""
        share = limit // self._clients(client)
        return max(limit - self.by_adapter[name], share - self.by_place[client, name])

    def _clients(self, client: str) -> int:
        return len(self.by_client.keys() | {client})


def _count_down(counts: Counter[Key], key: Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
