"""How long `adapt --help` takes with no plugin of others, and with 20 that import torch: medians of runs in turn."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

ROUNDS, PLUGINS = 15, 20
GROUPS = ("adapters", "tasks", "backbones", "files", "commands")
CALL = [sys.executable, "-c", "import sys; from adaptdock.cli import main; sys.exit(main(['--help']))"]


def put(site: Path, name: str, group: str) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[adaptdock.{group}]\n{name} = {name}_plugin:Plugin\n")
    (site / f"{name}_plugin.py").write_text("import torch\nclass Plugin:\n    api_version = 2\n")


def seconds(folder: str) -> tuple[float, float]:
    """Return wall time and processor time of one call."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(CALL, env={**os.environ, "PYTHONPATH": folder}, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    with tempfile.TemporaryDirectory() as none, tempfile.TemporaryDirectory() as many:
        for number in range(PLUGINS):
            put(Path(many), f"heavy{number}", GROUPS[number % len(GROUPS)])
        found: dict[str, list[tuple[float, float]]] = {"none": [], f"{PLUGINS} plugins": []}
        for _ in range(ROUNDS):
            for name, folder in zip(found, (none, many), strict=True):
                found[name].append(seconds(folder))
    print(machine())
    medians = {}
    for name, runs in found.items():
        wall, processor = (1000 * statistics.median(times) for times in zip(*runs, strict=True))
        medians[name] = wall
        print(f"{name}: {wall:.0f} ms, {processor:.0f} ms of the processor (medians of {ROUNDS})")
    first, second = medians.values()
    print(f"difference: {second - first:.0f} ms")


if __name__ == "__main__":
    main()
