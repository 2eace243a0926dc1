"""A soak: adapters swapped by two operators and through the folder while they are asked, in a real process.

    python benchmarks/serving_soak.py --swaps 1000 --requests 100000

Clients ask 64 adapters without pause, with frequencies of a Zipf law. Every answer names its adapter and its version,
whatever the text. It must be of a version that was acknowledged before the request was sent, or of a later one. At each
turn two operators read the ETag of an adapter, of the same adapter at every second turn, and push a version with
If-Match; who loses reads again and pushes again. At every fifth turn a file in the watched folder changes. A fifth of
the requests is asked without swaps, before. At the end the process is stopped and started again.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from machine import machine
from versioned import TEXT, Process, content, is_right, versioned

from adaptdock.engine.core.loading import load_backbone
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import LoadOptions

ADAPTERS, OF_FOLDER = 64, 8
"""Adapters; the last of them change through the folder only, the others by the operators only."""
NAMES = [f"a{number}" for number in range(ADAPTERS)]
STEADY = 0.2
"""Share of the requests before the first swap."""


class Connection:
    """A connection that stays open between requests."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: Any = None

    async def call(self, method: str, path: str, body: Any = b"", *headers: str) -> tuple[int, Any, str]:
        """Send a request; return status, JSON and ETag of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"Content-Type: {kind}",
            f"Content-Length: {len(sent)}",
        ]
        writer.write("\r\n".join([*lines, *headers, "", ""]).encode() + sent)
        head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head)}
        received = await reader.readexactly(int(fields[b"content-length"]))
        return int(head[0].split()[1]), json.loads(received), fields.get(b"etag", b"").decode()


class Soak:
    """Clients that ask without pause, two operators, and a folder."""

    def __init__(self, process: Process, place: Path, requests: int, swaps: int) -> None:
        self.process, self.place, self.requests, self.swaps = process, place, requests, swaps
        self.backbone = load_backbone("minilm", LoadOptions(device="cpu"))
        self.acknowledged = dict.fromkeys(NAMES, 1)
        self.counts = Counter[str]()
        self.steady: list[float] = []
        self.swapping: list[float] = []
        self.pushing: list[float] = []
        self.memory: list[tuple[int, float]] = []
        self._resident = psutil.Process(process.pid)

    async def run(self, clients: int) -> None:
        """Ask a share of the requests without swaps, and the others with them."""
        await self._ask_until(int(self.requests * STEADY), clients, self.steady)
        swapping = asyncio.create_task(self._swap())
        await self._ask_until(self.requests, clients, self.swapping)
        await swapping

    async def _ask_until(self, end: int, clients: int, seconds: list[float]) -> None:
        await asyncio.gather(*(self._client(number, end, seconds) for number in range(clients)))

    async def _client(self, number: int, end: int, seconds: list[float]) -> None:
        connection, draw = Connection(self.process.port), random.Random(number + end)
        frequencies = [1 / (place + 1) for place in range(ADAPTERS)]
        while self.counts["asked"] < end:
            self.counts["asked"] += 1
            (name,) = draw.choices(NAMES, frequencies)
            at_least, started = self.acknowledged[name], time.perf_counter()
            try:
                status, answer, _ = await connection.call("POST", "/v1/predict", {"adapter": name, "inputs": [TEXT]})
            except (OSError, asyncio.IncompleteReadError):
                self.counts["lost"] += 1
                connection = Connection(self.process.port)
                continue
            seconds.append(time.perf_counter() - started)
            self.counts[f"status {status}"] += 1
            if status == 200:
                prediction = answer["predictions"][0]
                self.counts["wrong"] += not is_right(prediction, name)
                self.counts["older than acknowledged"] += prediction["version"] < at_least
            if self.counts["asked"] % max(1, self.requests // 200) == 0:
                self.memory.append((self.counts["asked"], self._resident.memory_info().rss / 2**20))

    # --------------------------------------------------------------------------------- changes

    async def _swap(self) -> None:
        draw, operators = random.Random(0), [Connection(self.process.port) for _ in range(2)]
        begin, pause = self.requests * STEADY, self.requests * (1 - STEADY) / (self.swaps / 2.2)
        frequencies = [1 / (place + 1) for place in range(ADAPTERS - OF_FOLDER)]
        turn = 0
        while self.counts["swaps"] < self.swaps:
            if begin + turn * pause > self.counts["asked"] < self.requests:
                await asyncio.sleep(0.002)
                continue
            names = draw.choices(NAMES[:-OF_FOLDER], frequencies, k=2)
            names = [names[0]] * 2 if turn % 2 else names
            changes = [self._push(operators[number], number, name) for number, name in enumerate(names)]
            if turn % 5 == 4:
                changes.append(self._write(operators[0], NAMES[-1 - turn // 5 % OF_FOLDER]))
            await asyncio.gather(*changes[:2])
            await asyncio.gather(*changes[2:])
            turn += 1

    async def _push(self, connection: Connection, operator: int, name: str) -> None:
        """Push the next version of an adapter, if need be several times."""
        while True:
            _, state, etag = await connection.call("GET", f"/v1/adapters/{name}")
            number = 1 + max(version["version"] for version in state["versions"])
            sent = await asyncio.to_thread(
                content, self.backbone, name, number, self.place / f"sent{operator}", operator
            )
            started = time.perf_counter()
            status, answer, _ = await connection.call("PUT", f"/v1/adapters/{name}/file", sent, f"If-Match: {etag}")
            self.pushing.append(time.perf_counter() - started)
            if status != 412:
                break
            self.counts["refused with 412"] += 1
        self.counts["swaps"] += 1
        if status != 200 or answer["version"] != number:
            self.counts["failed swaps"] += 1
            return
        self.acknowledged[name] = max(self.acknowledged[name], number)

    async def _write(self, connection: Connection, name: str) -> None:
        """Replace a file in the folder, and wait until it is served."""
        number = self.acknowledged[name] + 1
        adapter = await asyncio.to_thread(versioned, self.backbone, name, number)
        await asyncio.to_thread(write_file, self.process.folder / f"{name}.safetensors", adapter)
        self.counts["swaps"] += 1
        for _ in range(600):
            _, state, _ = await connection.call("GET", f"/v1/adapters/{name}")
            if state["version"] == number:
                self.acknowledged[name] = number
                return
            await asyncio.sleep(0.05)
        self.counts["failed swaps"] += 1

    # ---------------------------------------------------------------------------------- report

    def after(self) -> tuple[int, int]:
        """Return how many adapters answer with their last acknowledged version, and the files in the state."""
        answers = [(name, self.process.ask(name)) for name in NAMES]
        right = sum(is_right(answer, name) and answer["version"] == self.acknowledged[name] for name, answer in answers)
        return right, len(list((self.process.folder / ".serving" / "versions").iterdir()))

    def report(self) -> None:
        """Print counts, latencies and memory."""
        statuses = {
            key: count for key, count in self.counts.items() if key.startswith("status") and key != "status 200"
        }
        p50, p99 = (
            [1e3 * statistics.quantiles(seconds, n=100)[percent] for seconds in (self.steady, self.swapping)]
            for percent in (49, 98)
        )
        later = [point for point in self.memory if point[0] > self.requests * 0.3]
        slope = statistics.linear_regression(*zip(*later, strict=True)).slope * 10_000
        rows = {
            "requests": f"{self.counts['asked']:,}",
            "without an answer": self.counts["lost"],
            "answered with another status than 200": statuses or 0,
            "of another adapter or version than the answer names": self.counts["wrong"],
            "of an older version than acknowledged": self.counts["older than acknowledged"],
            "swaps": f"{self.counts['swaps']:,}",
            "pushes refused because the other operator was first (412)": self.counts["refused with 412"],
            "swaps that failed or got another number": self.counts["failed swaps"],
            "p50 and p99 steady": f"{p50[0]:.0f} and {p99[0]:.0f} ms",
            "p50 and p99 during swaps": f"{p50[1]:.0f} and {p99[1]:.0f} ms",
            "push p50 and p99": " and ".join(
                f"{1e3 * statistics.quantiles(self.pushing, n=100)[place]:.0f}" for place in (49, 98)
            )
            + " ms",
            "MiB at the end": f"{self.memory[-1][1]:.0f}",
            "MiB more in 10,000 requests": f"{slope:+.2f}",
        }
        for title, value in rows.items():
            print(f"| {title} | {value} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder, place = Path(name) / "adapters", Path(name)
        folder.mkdir()
        backbone = load_backbone("minilm", LoadOptions(device="cpu"))
        for adapter in NAMES:
            write_file(folder / f"{adapter}.safetensors", versioned(backbone, adapter, 1))
        process = Process(folder, place / "log")
        process.start()
        soak, started = Soak(process, place, arguments.requests, arguments.swaps), time.monotonic()
        asyncio.run(soak.run(arguments.clients))
        print(f"\n| {time.monotonic() - started:.0f} s | |\n|---|---|")
        soak.report()
        right, files = soak.after()
        print(f"| adapters at their last acknowledged version | {right} of {ADAPTERS} |")
        status, seconds = process.end(), process.start()
        print(f"| after a restart (exit status {status}, ready in {seconds:.1f} s) | {soak.after()[0]} of {ADAPTERS} |")
        print(f"| version files in the state | {files} |")
        process.end()
        problems = process.problems()
        print(f"| errors in the log, and lines that are no JSON | {len(problems)} |")
        print("\n".join(problems[:5]))


if __name__ == "__main__":
    main()
