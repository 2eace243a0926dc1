"""A fleet on a Ray of its own on this machine, and requests to it."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
from live import RUN

from adaptdock.serving.client.requests import AFFINITY
from adaptdock.serving.fleet_size import FleetSize

START = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)
LOADS = re.compile(r"^adaptdock_loads_total (\S+)$", re.MULTILINE)


@contextmanager
def fleet(*arguments: object, log: Path, replicas: str = "2") -> Iterator[str]:
    """Run ``adapt serve --ray`` as long as the context is open, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", RUN, "serve", "--ray", "--replicas", replicas, "--port", port, *arguments]
    folder = tempfile.mkdtemp(prefix="fleet", dir="/tmp")  # Ray's sockets need a short path
    with log.open("w") as stream:
        process = subprocess.Popen(
            list(map(str, command)), stdout=stream, stderr=stream, env={**os.environ, "RAY_TMPDIR": folder}
        )
    try:
        _await_ready(process, log, f"http://127.0.0.1:{port}", FleetSize.parse(replicas).least)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def loads(url: str, replicas: int = 2) -> dict[float, int]:
    """Return how often each replica has read an adapter, by the time at which the replica began."""
    counts: dict[float, int] = {}
    end = time.monotonic() + 60
    while len(counts) < replicas:
        assert time.monotonic() < end, counts
        text = httpx2.get(f"{url}/metrics", headers={AFFINITY: str(random.random())}).text
        (began,), (count,) = START.findall(text), LOADS.findall(text)
        counts[float(began)] = int(float(count))
    return counts


def replica_processes() -> list[int]:
    """Return the process ids of the replicas on this machine."""
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listing.splitlines() if "ray::ServeReplica:adaptdock" in line]


def zipf(names: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Return names drawn by a Zipf law with the exponent 1."""
    return random.Random(seed).choices(names, [1 / rank for rank in range(1, len(names) + 1)], k=count)


def _await_ready(process: "subprocess.Popen[bytes]", log: Path, url: str, replicas: int) -> None:
    end = time.monotonic() + 400
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        if "Application 'adaptdock' is ready" in log.read_text():
            loads(url, replicas)
            return
        time.sleep(0.2)
    raise AssertionError(f"the fleet did not begin: {log.read_text()}")
