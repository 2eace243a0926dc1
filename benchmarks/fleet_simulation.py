"""What a large fleet needs: cold loads and latencies by a simulation, memory and state by measured sizes.

    python benchmarks/fleet_simulation.py measure
    python benchmarks/fleet_simulation.py simulate --request-ms 5 --load-ms 30

``measure`` docks LoRA adapters of MiniLM from their files, and writes the state of a service with many adapters.
``simulate`` sends requests by a Zipf law to replicas, each of which answers one after the other and holds the adapters
that it used last. A cold load delays its own request only. The order of replicas is that of the fleet's router.
"""

import argparse
import heapq
import random
import statistics
import sys
import tempfile
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from machine import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from adaptdock.serving.affinity import SHARE, SPILL, order

REPEATS = 40
TEXT = "Ada Lovelace met Charles Babbage in London before she wrote for the Royal Society."


class Fleet:
    """Replicas with their queues and the adapters that each of them holds."""

    def __init__(self, replicas: int, resident: int, request_seconds: float, load_seconds: float) -> None:
        self.names = [f"replica-{number}" for number in range(replicas)]
        self.in_flight = dict.fromkeys(self.names, 0)
        self.free_at = dict.fromkeys(self.names, 0.0)
        self.held: dict[str, OrderedDict[int, None]] = {name: OrderedDict() for name in self.names}
        self.resident, self.request_seconds, self.load_seconds = resident, request_seconds, load_seconds
        self.total = self.cold = 0
        self.users: dict[int, set[str]] = defaultdict(set)
        self._leaving: list[tuple[float, str]] = []
        self._orders: dict[int, list[str]] = {}

    def arrive(self, now: float, adapter: int, choose: Callable[["Fleet", int], str]) -> float:
        """Answer a request, and return its latency."""
        while self._leaving and self._leaving[0][0] <= now:
            self.in_flight[heapq.heappop(self._leaving)[1]] -= 1
            self.total -= 1
        replica = choose(self, adapter)
        held, delay = self.held[replica], 0.0
        if adapter not in held:
            self.cold += 1
            delay = self.load_seconds
            if len(held) >= self.resident:
                held.popitem(last=False)
        held[adapter] = None
        held.move_to_end(adapter)
        self.users[adapter].add(replica)
        start = max(now, self.free_at[replica])
        self.free_at[replica] = start + self.request_seconds
        end = max(start, now + delay) + self.request_seconds
        heapq.heappush(self._leaving, (end, replica))
        self.in_flight[replica] += 1
        self.total += 1
        return end - now

    def preferred(self, adapter: int) -> list[str]:
        """Return the router's order for idle replicas."""
        if adapter not in self._orders:
            self._orders[adapter] = order(str(adapter), dict.fromkeys(self.names, 0))
        return self._orders[adapter]


def by_adapter(fleet: Fleet, adapter: int) -> str:
    """Choose as :func:`order` does, from an order that is computed once for an adapter."""
    limit = max(SPILL, SHARE * fleet.total / len(fleet.names))
    return next(name for name in fleet.preferred(adapter) if fleet.in_flight[name] < limit)


def two_replicas(fleet: Fleet, adapter: int) -> str:
    """Choose among two replicas of an adapter only."""
    first, second = fleet.preferred(adapter)[:2]
    return second if fleet.in_flight[first] >= max(SPILL, 2 * fleet.in_flight[second]) else first


def at_random(fleet: Fleet, adapter: int) -> str:
    """Choose the less busy of two random replicas."""
    return min(random.sample(fleet.names, 2), key=lambda name: fleet.in_flight[name])


def simulate(options: argparse.Namespace) -> None:
    weights = list(accumulate(1 / rank for rank in range(1, options.adapters + 1)))
    seconds, rate = options.request_ms / 1e3, options.load * options.replicas / options.request_ms * 1e3
    print(
        f"{options.replicas} replicas, {options.adapters:,} adapters of which {options.resident:,} fit into a replica, "
        f"{options.requests:,} requests, {rate:,.0f} a second ({options.load:.0%} of the capacity)"
    )
    print("| replica | cold loads | p50 ms | p99 ms | replicas of the most used adapter |\n|---|---|---|---|---|")
    for title, choose in (("by adapter", by_adapter), ("one of two by adapter", two_replicas), ("random", at_random)):
        random.seed(0)
        fleet = Fleet(options.replicas, options.resident, seconds, options.load_ms / 1e3)
        names = random.choices(range(options.adapters), cum_weights=weights, k=2 * options.requests)
        now, latencies = 0.0, []
        for number, adapter in enumerate(names):
            if number == options.requests:  # the first half fills the replicas
                fleet.cold, latencies = 0, []
                fleet.users.clear()
            now += random.expovariate(rate)
            latencies.append(fleet.arrive(now, adapter, choose))
        latencies.sort()
        median, p99 = statistics.median(latencies) * 1e3, latencies[int(len(latencies) * 0.99)] * 1e3
        cold = fleet.cold / options.requests
        print(f"| {title} | {cold:.1%} | {median:.0f} | {p99:,.0f} | {len(fleet.users[0])} |", flush=True)


def measure(options: argparse.Namespace) -> None:
    """Print the sizes and times that the simulation and the arithmetic need."""
    from builders import build_adapter
    from served import serving

    from adaptdock import Dock
    from adaptdock.hub.artefact.file import read_file, write_file

    with tempfile.TemporaryDirectory() as temporary, Dock.open(options.backbone, device="cpu") as dock:
        paths = [Path(temporary) / "adapters" / f"a{number}.safetensors" for number in range(options.served)]
        for number, path in enumerate(paths):
            write_file(path, build_adapter(dock.backbone, "lora", name=path.stem, seed=number))
        loads = [timed(lambda path=path: dock.load(path, path.stem)) for path in paths[:REPEATS]]
        names = [path.stem for path in paths[:32]]
        dock.predict(names, [TEXT] * 32)
        batches = [timed(lambda: dock.predict(names, [TEXT] * 32)) for _ in range(10)]
        docked = dock.prepare(read_file(paths[0])).nbytes
        print(f"file {paths[0].stat().st_size / 1e6:.2f} MB, docked {docked / 1e6:.2f} MB")
        print(f"load {median_ms(loads):.1f} ms, {median_ms(batches) / 32:.2f} ms a request in batches of 32")
        folder, state = Path(temporary) / "adapters", Path(temporary) / "state"
        began = time.perf_counter()
        with serving(dock.backbone, adapters=str(folder), state=str(state), shared=True):
            first = time.perf_counter() - began
        began = time.perf_counter()
        with serving(dock.backbone, adapters=str(folder), state=str(state), shared=True):
            again = time.perf_counter() - began
        size = (state / "state.db").stat().st_size
        print(
            f"state of {options.served} adapters: {size / options.served:,.0f} bytes each; first start {first:.1f} s, "
            f"another {again:.1f} s"
        )


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=["measure", "simulate"])
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--served", type=int, default=500, help="adapters whose state is measured")
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--adapters", type=int, default=100_000)
    parser.add_argument("--resident", type=int, default=2_000, help="adapters that fit into a replica")
    parser.add_argument("--requests", type=int, default=500_000)
    parser.add_argument("--request-ms", type=float, default=5.0)
    parser.add_argument("--load-ms", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=0.7, help="share of the capacity that is in use")
    options = parser.parse_args()
    print(machine())
    {"measure": measure, "simulate": simulate}[options.phase](options)


if __name__ == "__main__":
    main()
