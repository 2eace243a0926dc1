"""The backlog: the accepted inputs without an answer, and how long a new one would wait for them.

Under fair queues an input does not wait for everything that came before: other adapters of its client are computed as
far as its own adapter at most, and other clients as far as its own client at most.
"""

from collections import Counter
from collections.abc import Mapping


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


class Waiting:
    """The numbers of waiting inputs. The caller serializes the access."""

    def __init__(self) -> None:
        self.by_client: Counter[str] = Counter()
        self.by_adapter: Counter[str] = Counter()

    def add(self, client: str, name: str) -> None:
        """Count an input."""
        self.by_client[client] += 1
        self.by_adapter[name] += 1

    def remove(self, client: str, name: str) -> None:
        """Count an answered input."""
        for counts, key in ((self.by_client, client), (self.by_adapter, name)):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]

    @property
    def total(self) -> int:
        """The number of waiting inputs."""
        return self.by_adapter.total()

    def room(self, client: str, limit: int) -> int:
        """Return how many more inputs of a client may wait if ``limit`` may in total.

        A full queue still has room for a client with less than its share, so the total is at most twice the limit.
        """
        clients = len(self.by_client.keys() | {client})
        return max(limit - self.total, limit // clients - self.by_client[client])
