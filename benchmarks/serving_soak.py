"""A soak: adapters swapped without pause while they are asked, in a real process.

    python benchmarks/serving_soak.py --swaps 1000 --requests 100000

Each adapter's head says its version, whatever the text, so an answer tells who gave it. Reported are failed requests,
answers of a version other than the answer names, the slope of the memory, and p99 with swaps beside p99 without.
Every tenth swap is a file in the watched folder, the others are sent.
"""

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import torch
from machine import machine
from serving import _await, ours

ADAPTERS, LABELS = 8, 16
TEXT = "Ada Lovelace met Charles Babbage in London before she wrote for the Royal Society ."


def adapter(backbone: Any, name: str, number: int) -> Any:
    """Return an adapter that gives every text the label of its number, and differs from the others in its weights."""
    from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
    from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
    from adaptdock.hub.artefact.file import AdapterFile

    methods, task = (
        method_entries("lora", {"rank": 8}),
        make_task("topic", {"labels": [f"L{n:02}" for n in range(LABELS)]}),
    )
    generator = torch.Generator().manual_seed(number)
    tensors = {
        key: tensor + 0.02 * torch.randn(tensor.shape, generator=generator)
        for key, tensor in assemble(backbone, methods, task).start(generator).items()
    }
    tensors["head.weight"].zero_()
    tensors["head.bias"].zero_()
    tensors["head.bias"][number % LABELS] = 9.0
    card = Card(
        name=name,
        version=str(number),
        task=entry("task", "topic", task.options),
        methods=methods,
        backbone=BackboneEntry(id="minilm", architecture=backbone.architecture, fingerprint=backbone.fingerprint),
        preprocessing=Preprocessing(max_length=128),
    )
    return AdapterFile(card, tensors)


class Soak:
    """Clients that ask without pause, and one that swaps."""

    def __init__(self, port: int, folder: Path, process: psutil.Process, requests: int, swaps: int) -> None:
        from adaptdock.engine.core.loading import load_backbone
        from adaptdock.plugins.contracts import LoadOptions

        self.port, self.folder, self.process = port, folder, process
        self.requests, self.swaps = requests, swaps
        self.backbone = load_backbone("minilm", LoadOptions(device="cpu"))
        self.steady: list[float] = []
        self.swapping: list[float] = []
        self.memory: list[tuple[int, float]] = []
        self.failed = self.wrong = self.asked = self.swapped = self.swaps_failed = 0

    async def run(self, clients: int) -> None:
        """Ask a fifth of the requests without swaps, and the others with them."""
        await self._ask_until(self.requests // 5, clients, self.steady)
        swapping = asyncio.create_task(self._swap())
        await self._ask_until(self.requests, clients, self.swapping)
        await swapping

    async def _ask_until(self, end: int, clients: int, times: list[float]) -> None:
        await asyncio.gather(*(self._client(number, end, times) for number in range(clients)))

    async def _client(self, number: int, end: int, times: list[float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while self.asked < end:
            self.asked += 1
            name = f"a{(self.asked + number) % ADAPTERS}"
            started = time.perf_counter()
            status, found = await self._call(reader, writer, "POST", "/v1/predict", {"adapter": name, "inputs": [TEXT]})
            times.append(time.perf_counter() - started)
            if status != 200:
                self.failed += 1
                continue
            one = found["predictions"][0]
            if one["adapter"] != name or one["prediction"]["label"] != f"L{one['version'] % LABELS:02}":
                self.wrong += 1
            if self.asked % max(1, self.requests // 200) == 0:
                self.memory.append((self.asked, self.process.memory_info().rss / 2**20))
        writer.close()

    async def _swap(self) -> None:
        from adaptdock.hub.artefact.file import write_file

        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        versions = dict.fromkeys((f"a{number}" for number in range(ADAPTERS)), 1)
        pause = self.requests * 0.8 / self.swaps
        while self.swapped < self.swaps:
            if self.asked < self.requests // 5 + self.swapped * pause and self.asked < self.requests:
                await asyncio.sleep(0.002)
                continue
            name = f"a{self.swapped % ADAPTERS}"
            versions[name] += 1
            made = await asyncio.to_thread(adapter, self.backbone, name, versions[name])
            if self.swapped % 10 == 9:
                await asyncio.to_thread(write_file, self.folder / f"{name}.safetensors", made)
                await self._seen(reader, writer, name, versions[name])
            else:
                path = self.folder / ".sent"
                await asyncio.to_thread(write_file, path, made)
                place = f"/v1/adapters/{name}/file"
                status, _ = await self._call(reader, writer, "PUT", place, path.read_bytes())
                self.swaps_failed += status != 200
            self.swapped += 1
        writer.close()

    async def _seen(self, reader: Any, writer: Any, name: str, version: int) -> None:
        """Wait until the file in the folder is served."""
        for _ in range(600):
            _, found = await self._call(reader, writer, "GET", f"/v1/adapters/{name}", b"")
            if found["version"] == version:
                return
            await asyncio.sleep(0.05)
        self.swaps_failed += 1

    async def _call(self, reader: Any, writer: Any, method: str, path: str, body: Any) -> tuple[int, Any]:
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}"
        writer.write(f"{head}\r\n\r\n".encode() + content)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        size = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        return int(lines[0].split()[1]), json.loads(await reader.readexactly(size))

    def report(self) -> None:
        """Print what was found."""
        p99 = [statistics.quantiles(times, n=100)[98] for times in (self.steady, self.swapping)]
        later = [point for point in self.memory if point[0] > self.requests * 0.3]
        slope = statistics.linear_regression(*zip(*later, strict=True)).slope * 10_000
        print(f"| requests | {self.asked:,} |\n| failed | {self.failed} |\n| of another version | {self.wrong} |")
        print(f"| swaps | {self.swapped:,} |\n| swaps that failed | {self.swaps_failed} |")
        print(f"| p99 steady | {1e3 * p99[0]:.1f} ms |\n| p99 during swaps | {1e3 * p99[1]:.1f} ms |")
        print(f"| ratio | {p99[1] / p99[0]:.2f} |\n| MiB at the end | {self.memory[-1][1]:.0f} |")
        print(f"| MiB more in 10,000 requests | {slope:+.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    from adaptdock.engine.core.loading import load_backbone
    from adaptdock.hub.artefact.file import write_file
    from adaptdock.plugins.contracts import LoadOptions

    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder, backbone = Path(name), load_backbone("minilm", LoadOptions(device="cpu"))
        for number in range(ADAPTERS):
            write_file(folder / f"a{number}.safetensors", adapter(backbone, f"a{number}", 1))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = multiprocessing.get_context("spawn").Process(target=ours, args=(port, str(folder), []))
        process.start()
        try:
            _await(port, process)
            soak = Soak(port, folder, psutil.Process(process.pid), arguments.requests, arguments.swaps)
            asyncio.run(soak.run(arguments.clients))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
                assert json.load(answer)["status"] == "ok"
            print("\n| | |\n|---|---|")
            soak.report()
        finally:
            process.terminate()
            process.join(30)


if __name__ == "__main__":
    main()
