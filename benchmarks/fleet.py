"""A fleet on Ray: cold loads with affinity and without, the answers while a replica is killed.

    pip install 'adaptdock[ray]'
    python benchmarks/fleet.py --adapters 500 --resident 125 --requests 2000

Two replicas on this machine serve adapters of a tiny random BERT. Requests for adapters by a Zipf law come from four
clients; before them, requests for one adapter. A cold load reads an adapter that was not docked. Affinity is the share
of requests that need none.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machine import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from models import tiny_bert
from ray_fleet import fleet, loads, replica_processes, zipf
from served import TEXT, labelled

from adaptdock import Client, Dock
from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import LoadOptions

CLIENTS = 4


@dataclass
class Answers:
    """Latencies, and requests with a wrong answer or none."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: list[str] = field(default_factory=list)


def ask(url: str, names: Sequence[str], affinity: bool, answers: Answers) -> None:
    with Client(url, retries=4) as client:
        for name in names:
            started = time.perf_counter()
            try:  # a list of names has no header
                (predicted,) = client.predict(name if affinity else [name], [TEXT])
            except AdaptError as error:
                answers.lost.append(str(error))
                continue
            answers.seconds.append(time.perf_counter() - started)
            answers.wrong += predicted.prediction["entities"][0]["label"] != f"L{name}"


def flood(
    url: str, names: Sequence[str], requests: int, affinity: bool, kill: bool = False, first_seed: int = 0
) -> tuple[Answers, int]:
    """Send requests from four clients; return the answers and the number of cold loads."""
    answers, before = Answers(), 0 if kill else sum(loads(url).values())
    threads = [
        threading.Thread(target=ask, args=(url, zipf(names, requests // CLIENTS, seed), affinity, answers))
        for seed in range(first_seed, first_seed + CLIENTS)
    ]
    for thread in threads:
        thread.start()
    if kill:
        while len(answers.seconds) < requests // 4:
            time.sleep(0.01)
        os.kill(random.choice(replica_processes()), signal.SIGKILL)
    for thread in threads:
        thread.join()
    return answers, sum(loads(url).values()) - before


def row(title: str, answers: Answers, cold: str) -> str:
    seconds = sorted(answers.seconds)
    p99 = seconds[int(len(seconds) * 0.99)]
    return (
        f"| {title} | {len(seconds)} | {cold} | {statistics.median(seconds) * 1e3:.0f} | {p99 * 1e3:.0f} | "
        f"{answers.wrong} | {len(answers.lost)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=48)
    parser.add_argument("--resident", type=int, default=12, help="adapters that fit into a replica")
    parser.add_argument("--requests", type=int, default=400)
    options = parser.parse_args()
    names = [f"a{number:03}" for number in range(options.adapters)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = tiny_bert(folder / "model")
        backbone = load_backbone(str(model), LoadOptions(device="cpu"))
        for number, name in enumerate(names):
            write_file(folder / "adapters" / f"{name}.safetensors", labelled(backbone, f"L{name}", seed=number))
        size = Dock(backbone).prepare(labelled(backbone, "L")).nbytes
        arguments = ["--adapters", folder / "adapters", "--backbone", model, "--device-bytes", options.resident * size]
        with fleet(*arguments, log=folder / "log") as url:
            print(machine())
            print(
                "| requests | answered | cold loads | p50 ms | p99 ms | wrong | lost |\n|---|---|---|---|---|---|---|"
            )
            flood(url, names, options.requests, affinity=True)  # fills both replicas
            for turn, affinity in enumerate((True, False, True, False), start=1):
                if affinity:
                    answers, cold = flood(url, names[:1], options.requests, affinity=True)
                    print(row("one adapter", answers, str(cold)), flush=True)
                answers, cold = flood(url, names, options.requests, affinity, first_seed=CLIENTS * turn)
                share = 1 - cold / len(answers.seconds)
                title = "by adapter" if affinity else "at random"
                print(row(title, answers, f"{cold} ({share:.0%} need none)"), flush=True)
            answers, _ = flood(url, names, options.requests, affinity=True, kill=True, first_seed=CLIENTS * 5)
            print(row("by adapter, one of two replicas killed", answers, "-"), flush=True)


if __name__ == "__main__":
    main()
