"""Overload: three times as many requests as a process can answer, and one greedy client beside a modest one.

    python benchmarks/overload.py --seconds 60 --floods 5

Every flood is an open loop (requests leave at random times, whether or not earlier ones were answered), of single
inputs or of batches. Reported are the share of answers, the latency of accepted requests, refusals by status and
whether each said when to come back, the latency of probes on new connections, and the memory. Then a client asks
without pause, in three forms, beside a client with one short text at a time.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from machine import machine
from serving import SENTENCE, _await, build

PROBES = ("/healthz", "/readyz", "/metrics")
OVERLOAD = 3
TIMEOUT = 60.0


def serve(port: int, folder: str, tokens: str) -> None:
    """Serve with the options of ``adapt serve``, as they are unless given."""
    from adaptdock.cli.common.library_warnings import quiet
    from adaptdock.plugins.contracts import LoadOptions
    from adaptdock.serving.configuration import ServingOptions
    from adaptdock.serving.http import process

    quiet()
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # a line per request is not part of the measurement
    process.serve(ServingOptions(adapters=folder, port=port, tokens=tokens), LoadOptions(device="cpu"))


# ------------------------------------------------------------------------------------------ requests


@dataclass
class Answers:
    """The statuses and latencies of requests."""

    seconds: list[float] = field(default_factory=list)
    """Latencies of accepted requests."""
    statuses: Counter[str] = field(default_factory=Counter)
    without_pause: int = 0
    """Refusals without Retry-After."""

    def add(self, status: str, seconds: float, retry: bool) -> None:
        """Count a request."""
        self.statuses[status] += 1
        if status == "200":
            self.seconds.append(seconds)
        elif not retry:
            self.without_pause += 1

    def quantile(self, percent: int) -> float:
        """Return a percentile of the latencies, in milliseconds."""
        if len(self.seconds) < 2:
            return 1e3 * sum(self.seconds)
        return 1e3 * statistics.quantiles(self.seconds, n=100)[percent - 1]


async def request(port: int, method: str, path: str, secret: str, body: bytes, answers: Answers) -> None:
    """Send a request on a new connection, and count its answer."""
    started, status, retry = time.perf_counter(), "none", False
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            head += f"Authorization: Bearer {secret}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            writer.write(f"{head}\r\n\r\n".encode() + body)
            answer = await reader.read()
            writer.close()
            status = answer[9:12].decode() or "none"
            retry = b"\nretry-after:" in answer.lower()
    except (OSError, TimeoutError):
        pass
    answers.add(status, time.perf_counter() - started, retry)


def body_of(draw: random.Random, names: Sequence[str], inputs: int, words: int | None = None) -> bytes:
    """Return a request for random adapters of these, with texts of 6 to 24 words unless their number is given."""
    texts = [" ".join(draw.choices(SENTENCE.split(), k=words or draw.randint(6, 24))) for _ in range(inputs)]
    return json.dumps({"adapter": [draw.choice(names) for _ in texts], "inputs": texts}).encode()


async def flood(port: int, secret: str, names: Sequence[str], rate: float, inputs: int, seconds: float) -> Answers:
    """Send requests at random times, at a mean rate of inputs per second."""
    draw, answers, tasks, now = random.Random(1), Answers(), [], 0.0
    ask = partial(request, port, "POST", "/v1/predict", secret, answers=answers)
    started = time.perf_counter()
    while now < seconds:
        now += draw.expovariate(rate / inputs)
        await asyncio.sleep(max(0.0, started + now - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(body=body_of(draw, names, inputs))))
    await asyncio.gather(*tasks)
    return answers


async def closed(
    port: int, secret: str, names: Sequence[str], clients: int, inputs: int, seconds: float, words: int | None = None
) -> Answers:
    """Let clients ask without pause; a refused one waits for a tenth of a second."""
    answers, end = Answers(), time.perf_counter() + seconds

    async def ask(number: int) -> None:
        draw = random.Random(number)
        while time.perf_counter() < end:
            accepted = answers.statuses["200"]
            await request(port, "POST", "/v1/predict", secret, body_of(draw, names, inputs, words), answers)
            if answers.statuses["200"] == accepted:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(ask(number) for number in range(clients)))
    return answers


async def probing(port: int, secret: str, answers: Answers) -> None:
    """Send a probe every 50 ms until cancelled."""
    while True:
        for path in PROBES:
            await request(port, "GET", path, secret, b"", answers)
            await asyncio.sleep(0.05)


def _in_process(call: Any, arguments: tuple[Any, ...], channel: Any) -> None:
    channel.put(asyncio.run(call(*arguments)))


async def _with_probes(port: int, secret: str, load: Any, arguments: tuple[Any, ...]) -> tuple[Answers, Answers]:
    """Run a load in another process, and probes in this one."""
    context = multiprocessing.get_context("spawn")
    channel, probes = context.Queue(), Answers()
    process = context.Process(target=_in_process, args=(load, (port, secret, *arguments), channel))
    probing_task = asyncio.create_task(probing(port, secret, probes))
    process.start()
    answers: Answers = await asyncio.to_thread(channel.get)
    process.join()
    probing_task.cancel()
    return answers, probes


# ------------------------------------------------------------------------------------------- report


def report(kind: str, answers: Answers, probes: Answers, memory: float) -> None:
    """Print a row."""
    sent = answers.statuses.total()
    refused = ", ".join(f"{count} x {status}" for status, count in answers.statuses.items() if status != "200") or "0"
    unanswered = probes.statuses.total() - probes.statuses["200"]
    print(
        f"| {kind} | {sent} | {100 * answers.statuses['200'] / max(1, sent):.0f} % | {answers.quantile(50):.0f} | "
        f"{answers.quantile(99):.0f} | {refused} | {answers.without_pause} | {probes.quantile(99):.0f} | "
        f"{unanswered} | {memory:.0f} |",
        flush=True,
    )


async def overload(port: int, secret: str, names: Sequence[str], process: Any, arguments: argparse.Namespace) -> None:
    """Measure the capacity, then flood with single inputs and batches, and ask calmly afterwards."""
    memory = lambda: psutil.Process(process.pid).memory_info().rss / 2**20  # noqa: E731
    print(
        "| load | requests | answered | p50 ms | p99 ms | refused | no Retry-After | probes p99 ms | unanswered | MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    await closed(port, secret, names, 32, 1, 3)  # to warm up
    busy = await closed(port, secret, names, 32, 1, arguments.steady)
    rate = len(busy.seconds) / arguments.steady
    for name, share in (
        ("half of the capacity", 0.5),
        *[(f"flood {n + 1}", OVERLOAD) for n in range(arguments.floods)],
    ):
        seconds = arguments.seconds if share == OVERLOAD else arguments.steady
        for inputs in (1, 16) if share == OVERLOAD else (1,):
            load = (names, share * rate, inputs, seconds)
            report(f"{name}, {inputs} a request", *await _with_probes(port, secret, flood, load), memory())
    started = time.perf_counter()
    calm = Answers()
    while not calm.seconds:
        await request(port, "POST", "/v1/predict", secret, body_of(random.Random(0), names, 1), calm)
    print(
        f"\ncapacity {rate:.1f} inputs per second; first answer {time.perf_counter() - started:.2f} s after the floods"
    )
    after = await _with_probes(port, secret, flood, (names, 0.5 * rate, 1, arguments.steady))
    report("half of the capacity, afterwards", *after, memory())


async def fairness(port: int, secrets: dict[str, str], names: Sequence[str], seconds: float) -> None:
    """Measure a modest client alone, and beside a greedy one in three forms."""
    forms: dict[str, tuple[Any, ...]] = {
        "alone": (),
        "one adapter, 128 inputs a request": (names[:1], 12, 128),
        "20 adapters, 128 inputs a request": (names[:20], 12, 128),
        "long texts of 300 words": (names[:20], 12, 16, 300),
    }
    print("\n| greedy client | modest p50 ms | p99 ms | answered | refused | greedy answered | refused |")
    print("|---|---|---|---|---|---|---|")
    for name, form in forms.items():
        greedy = asyncio.create_task(_greedy(port, secrets["greedy"], form, seconds)) if form else None
        await asyncio.sleep(2 if greedy else 0)
        modest = await closed(port, secrets["modest"], names[-1:], 1, 1, seconds - 2, 10)
        answers = await greedy if greedy else Answers()
        counts = [
            f"{each.statuses['200']} | {each.statuses.total() - each.statuses['200']}" for each in (modest, answers)
        ]
        print(f"| {name} | {modest.quantile(50):.0f} | {modest.quantile(99):.0f} | {' | '.join(counts)} |", flush=True)


async def _greedy(port: int, secret: str, form: tuple[Any, ...], seconds: float) -> Answers:
    names, clients, inputs, *words = form
    context = multiprocessing.get_context("spawn")
    channel = context.Queue()
    arguments = (port, secret, names, clients, inputs, seconds, *words)
    process = context.Process(target=_in_process, args=(closed, arguments, channel))
    process.start()
    answers: Answers = await asyncio.to_thread(channel.get)
    process.join()
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=36)
    parser.add_argument("--seconds", type=float, default=60, help="of a flood")
    parser.add_argument("--steady", type=float, default=15, help="of what is not a flood, in seconds")
    parser.add_argument("--floods", type=int, default=5)
    parser.add_argument("--fairness", type=float, default=20, help="of each form of the greedy client, in seconds")
    arguments = parser.parse_args()
    from adaptdock.serving.http.access_tokens import new_token

    print(machine(), f"load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.txt"
        secrets = {name: new_token(tokens, "predict", name) for name in ("flood", "greedy", "modest")}
        names = build(Path(folder), arguments.adapters, ["lora"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, folder, str(tokens)))
        process.start()
        try:
            _await(port, process)
            asyncio.run(overload(port, secrets["flood"], names, process, arguments))
            asyncio.run(fairness(port, secrets, names, arguments.fairness))
        finally:
            process.terminate()
            process.join(60)


if __name__ == "__main__":
    main()
