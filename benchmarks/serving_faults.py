"""Faults around a serving process: killed, a full disk, a clock that is set back, a slow disk.

    python benchmarks/serving_faults.py [--parts kills,full,clock,slow] [--kills 50]

``kills`` pushes versions, moves aliases and activates earlier versions without pause, kills the process with SIGKILL at
a random moment (at every fifth time while it starts), starts it again on the same state, and compares with the
acknowledged changes. ``full`` has the state on a tmpfs of 8 MiB (it mounts one, so it needs root). ``clock`` sets the
wall clock of the running process back (``clock_offset.c``, for which it needs a C compiler). ``slow`` has the state on
a disk where an operation takes 20 ms and a sync 0.3 s (``slow_folder.py``, with what that needs).
"""

import argparse
import hashlib
import http.client
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from machine import machine
from versioned import Process, WarmProcess, content, is_right, versioned

from adaptdock.engine.core.loading import load_backbone
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import LoadOptions

ADAPTERS = 6
DAY = 24 * 60 * 60
NAMES = [f"a{number}" for number in range(ADAPTERS)]
LONGEST = 2.0
"""Most seconds of changes before a kill."""


def filled(place: Path, backbone: Any) -> Path:
    """Return a folder with the first version of each adapter."""
    folder = place / "adapters"
    folder.mkdir()
    for name in NAMES:
        write_file(folder / f"{name}.safetensors", versioned(backbone, name, 1))
    return folder


# --------------------------------------------------------------------------------------------- kills


class Operator:
    """Changes one adapter after the other, and remembers the state after the last acknowledged change of each.

    A change without an answer may or may not have been made: then the states before and after it are possible.
    """

    def __init__(self, process: Process, backbone: Any, place: Path) -> None:
        self.process, self._backbone, self._place = process, backbone, place
        self.possible: dict[str, list[Any]] = {name: [1] for name in NAMES} | {"alias": [None]}
        self.acknowledged = Counter[str]()
        self._draw = random.Random(7)

    def work(self) -> None:
        """Make changes until the process is gone."""
        with suppress(OSError, http.client.HTTPException):
            while True:
                self._change()

    def _change(self) -> None:
        name, kind = self._draw.choice(NAMES), self._draw.random()
        if kind < 0.15:
            target = self._draw.choice(NAMES)
            self._ask("alias", target, "alias", "PUT", "/v1/aliases/alias", {"target": target})
        elif kind < 0.3:
            earlier = self.process.call("GET", f"/v1/adapters/{name}")[1]["versions"]
            numbers = [version["version"] for version in earlier if not version["weight"]]
            if numbers:
                number = self._draw.choice(numbers)
                self._ask(name, number, "activated", "PUT", f"/v1/adapters/{name}", {"version": number})
        else:
            number = max(self._numbers(name)) + 1
            sent = content(self._backbone, name, number, self._place / "sent")
            self._ask(name, number, "pushed", "PUT", f"/v1/adapters/{name}/file", sent)

    def _numbers(self, name: str) -> list[int]:
        """Return the numbers of the versions of an adapter."""
        return [version["version"] for version in self.process.call("GET", f"/v1/adapters/{name}")[1]["versions"]]

    def _ask(self, subject: str, after: Any, kind: str, method: str, path: str, body: Any) -> None:
        before = self.possible[subject]
        self.possible[subject] = [*before, after]
        status, answer, _ = self.process.call(method, path, body)
        if status != 200:
            raise SystemExit(f"{method} {path}: {status} {answer}")
        self.possible[subject] = [after]
        self.acknowledged[kind] += 1

    def reconsider(self) -> tuple[int, int]:
        """Return after a restart how many acknowledged changes are lost, and how many answers are wrong."""
        lost = wrong = 0
        for name in NAMES:
            prediction = self.process.ask(name)
            lost += prediction["version"] not in self.possible[name]
            wrong += not is_right(prediction, name)
            self.possible[name] = [prediction["version"]]
        alias = self.process.call("GET", "/v1/adapters")[1]["aliases"].get("alias")
        lost += alias not in self.possible["alias"]
        self.possible["alias"] = [alias]
        return lost, wrong


def damaged(state: Path) -> int:
    """Return how many versions are half written or have another hash than their name; SQLite's check counts too."""
    files = list((state / "versions").iterdir())
    bad = sum(hashlib.sha256(path.read_bytes()).hexdigest() != path.stem for path in files)
    with closing(sqlite3.connect(f"file:{state / 'state.db'}?mode=ro", uri=True)) as base:
        return bad + (base.execute("PRAGMA integrity_check").fetchone() != ("ok",))


def kills(place: Path, backbone: Any, count: int) -> None:
    """Kill the process again and again, and compare what answers afterwards with what was acknowledged."""
    process = WarmProcess(filled(place, backbone), place / "log")
    process.start()
    operator, draw, counts, starts = Operator(process, backbone, place), random.Random(1), Counter[str](), []
    for number in range(count):
        if number % 5 == 4:  # while it starts
            process.end(signal.SIGKILL)
            process.start(wait=False)
            time.sleep(draw.uniform(0, max(starts or [5.0])))
            process.end(signal.SIGKILL)
        else:
            working = threading.Thread(target=operator.work)
            working.start()
            time.sleep(draw.uniform(0.05, LONGEST))
            process.end(signal.SIGKILL)
            working.join()
        starts.append(process.start())
        lost, wrong = operator.reconsider()
        counts += Counter(lost=lost, wrong=wrong, damaged=damaged(process.folder / ".serving"))
        if number % 10 == 9:
            print(f"  {number + 1} kills: {dict(counts)}", flush=True)
    process.end()
    print(f"| SIGKILL, then a restart on the same state | {count} |")
    print(f"| acknowledged changes | {dict(operator.acknowledged)} |")
    print(f"| lost changes, wrong answers, damaged versions or state | {counts.total()} {dict(counts) or ''} |")
    print(f"| seconds from the start to readiness | {statistics.median(starts):.1f} |")
    _log(process)


# ----------------------------------------------------------------------------------------- full disk


@contextmanager
def small_disk(place: Path) -> Any:
    """Mount a tmpfs of 8 MiB."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def full(place: Path, backbone: Any) -> None:
    """Push until the disk of the state is full, restart on the full disk, then make room."""
    with small_disk(place / "disk") as disk:
        process = Process(filled(place, backbone), place / "log", ["--state", str(disk / "state")])
        process.start()
        statuses, acknowledged = Counter[int](), dict.fromkeys(NAMES, 1)

        def push(name: str) -> int:
            sent = content(backbone, name, acknowledged[name] + 1, place / "sent")
            status, answer, _ = process.call("PUT", f"/v1/adapters/{name}/file", sent)
            acknowledged[name] += status == 200
            statuses[status] += 1
            if status not in (200, 507):
                print(f"  unexpected: {status} {answer}")
            return status

        def wrong() -> int:
            predictions = [(name, process.ask(name)) for name in NAMES]
            return sum(
                not is_right(answer, name) or answer["version"] != acknowledged[name] for name, answer in predictions
            )

        for number in range(30):
            push(NAMES[number % ADAPTERS])
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        for name in NAMES:
            push(name)
        alias = process.call("PUT", "/v1/aliases/alias", {"target": "a1"})[0]
        print(f"| full disk: pushes by status | {dict(statuses)} |")
        print(f"| full disk: status of a change of an alias, wrong answers | {alias}, {wrong()} |")
        status, seconds = process.end(), process.start()
        print(f"| restart on the full disk | exit status {status}, ready in {seconds:.1f} s, wrong answers {wrong()} |")
        process.end(signal.SIGKILL)
        print(f"| SIGKILL, restart on the full disk | ready in {process.start():.1f} s, wrong answers {wrong()} |")
        filler.unlink()
        later = [push(name) for name in NAMES[:2]]
        print(f"| with room again: pushes, wrong answers, damaged | {later}, {wrong()}, {damaged(disk / 'state')} |")
        process.end()
        _log(process)


# --------------------------------------------------------------------------------------------- clock


def clock(place: Path, backbone: Any) -> None:
    """Set the clock of a running process back by two days, and start it again with such a clock."""
    offset, library = place / "offset", place / "clock_offset.so"
    offset.write_text("0")
    source = Path(__file__).parent / "clock_offset.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
    variables = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    process = Process(filled(place, backbone), place / "log", ["--queue-seconds", "30"], variables)
    process.start()
    wrong = 0

    def change(name: str, number: int) -> None:
        nonlocal wrong
        sent = content(backbone, name, number, place / "sent")
        status = process.call("PUT", f"/v1/adapters/{name}/file", sent)[0]
        path = process.folder / f"{NAMES[-1]}.safetensors"
        write_file(path, versioned(backbone, NAMES[-1], number))
        os.utime(path, (1e9 - number, 1e9 - number))  # older than the file before
        end = time.monotonic() + 20
        while process.ask(NAMES[-1])["version"] != number and time.monotonic() < end:
            time.sleep(0.1)
        for asked, version in ((name, number), (NAMES[-1], number), ("a1", 1)):
            prediction = process.ask(asked)
            wrong += status != 200 or not is_right(prediction, asked) or prediction["version"] != version

    change("a0", 2)
    offset.write_text(str(-2 * DAY))
    logged = process.log.stat().st_size
    change("a0", 3)
    dates = [line[:40] for line in process.log.read_text()[logged:].splitlines()[:1]]
    restart = f"exit status {process.end()}, ready in {process.start():.1f} s"
    offset.write_text(str(DAY))
    change("a0", 4)
    offset.write_text(str(-300 * DAY))
    change("a0", 5)
    print(f"| clock set back by two days while running (the log then: {dates}), by 300 days later | wrong {wrong} |")
    print(f"| restart with the clock set back | {restart} |")
    process.end()
    _log(process)


# ---------------------------------------------------------------------------------------------- slow


def slow(place: Path, backbone: Any) -> None:
    """Compare latencies with the state on a usual and on a slow disk, while versions are pushed."""
    folder, shown = place / "fast", place / "slow"
    folder.mkdir()
    shown.mkdir()
    script = Path(__file__).parent / "slow_folder.py"
    mounted = subprocess.Popen([sys.executable, str(script), str(folder), str(shown)])
    process = Process(filled(place, backbone), place / "log", ["--state", str(shown / "state")])
    try:
        while not shown.is_mount():
            if mounted.poll() is not None:
                raise SystemExit("the slow folder could not be mounted")
            time.sleep(0.1)
        ready = process.start()
        asked, pushed, probed = _latencies(process, backbone, place)
        print(f"| slow disk: seconds from the start to readiness | {ready:.1f} |")
        for title, seconds in (("request", asked), ("probe", probed), ("push", pushed)):
            print(f"| slow disk: {title} p50, largest | {statistics.median(seconds):.2f}, {max(seconds):.2f} s |")
        process.end(signal.SIGKILL)
        process.start()
        state, last = process.call("GET", "/v1/adapters/a0")[1], len(pushed) + 1
        print(f"| slow disk: SIGKILL and restart | version {state['version']}, {last} was acknowledged |")
        process.end()
    finally:
        subprocess.run(["umount", str(shown)], check=False)
        mounted.wait(10)
    _log(process)


def _latencies(process: Process, backbone: Any, place: Path) -> tuple[list[float], list[float], list[float]]:
    asked: list[float] = []
    probed: list[float] = []
    pushed: list[float] = []
    going = True

    def repeat(call: Any, seconds: list[float]) -> None:
        while going:
            started = time.monotonic()
            call()
            seconds.append(time.monotonic() - started)

    calls = ((lambda: process.ask("a1"), asked), (lambda: process.call("GET", "/readyz"), probed))
    threads = [threading.Thread(target=repeat, args=pair) for pair in calls]
    for thread in threads:
        thread.start()
    for number in range(2, 8):
        sent = content(backbone, "a0", number, place / "sent")
        started = time.monotonic()
        status, answer, _ = process.call("PUT", "/v1/adapters/a0/file", sent)
        pushed.append(time.monotonic() - started)
        if status != 200 or not is_right(process.ask("a0"), "a0"):
            print(f"  {status} {answer}")
    going = False
    for thread in threads:
        thread.join()
    return asked, pushed, probed


def _log(process: Process) -> None:
    problems = process.problems()
    print(f"| errors in the log, and lines that are no JSON | {len(problems)} |\n", flush=True)
    for line in problems[:5]:
        print(f"  {line[:400]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="kills,full,clock,slow")
    parser.add_argument("--kills", type=int, default=50)
    arguments = parser.parse_args()
    print(machine(), flush=True)
    backbone = load_backbone("minilm", LoadOptions(device="cpu"))
    more = {"kills": (arguments.kills,)}
    for part in arguments.parts.split(","):
        with tempfile.TemporaryDirectory() as name:
            parts = {"kills": kills, "full": full, "clock": clock, "slow": slow}
            parts[part](Path(name), backbone, *more.get(part, ()))


if __name__ == "__main__":
    main()
