"""Millions of rows labelled by adapters chosen by row: rate with one and two workers, memory, kills, every row once.

    python benchmarks/labelling.py lake FOLDER --rows 2000000
    python benchmarks/labelling.py scaling FOLDER --files 1
    python benchmarks/labelling.py kills FOLDER

``lake`` writes Parquet files and three adapters (two tasks) of a tiny random BERT. ``scaling`` labels the first files
with one worker and with two, in turn. ``kills`` labels all files with two workers, kills both twice by SIGKILL, lets
them continue, and checks the parts; started again, it continues. A worker is a process with ``--shard``.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow
from machine import machine
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from builders import build_adapter
from models import tiny_bert

from adaptdock import Dock
from adaptdock.engine.core.loading import load_backbone
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import LoadOptions

RUN = "import sys; from adaptdock.cli import main; sys.exit(main())"
FILES, GROUP_ROWS, WORDS = 4, 50_000, ["ada", "bob", "eve", "joe", "rain", "rome", "oslo", "sings", "runs", "in"]
ADAPTERS = {
    "topics": ("classification", "lora", ("a", "b")),
    "mood": ("classification", "bottleneck", ("x", "y", "z")),
    "people": ("ner", "prefix", ("LOC", "PER")),
}
PAGE, TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
SAMPLE = 2000


@dataclass
class Worker:
    """A labelling process, with its memory and CPU seconds over time."""

    process: "subprocess.Popen[bytes]"
    samples: list[tuple[float, float, float]] = field(default_factory=list)
    """Seconds since 1970, MB, CPU seconds."""

    def sample(self) -> None:
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError, IndexError):
            return
        if pages:  # a process that has ended has none
            self.samples.append((time.time(), pages * PAGE / 1e6, (int(fields[11]) + int(fields[12])) / TICK))


def make_lake(folder: Path, rows: int) -> None:
    backbone = load_backbone(str(tiny_bert(folder / "model")), LoadOptions(device="cpu"))
    for name, (task, method, labels) in ADAPTERS.items():
        write_file(
            folder / "adapters" / f"{name}.safetensors", build_adapter(backbone, method, None, labels, task=task)
        )
    draw, names = random.Random(0), list(ADAPTERS)
    (folder / "texts").mkdir()
    for file in range(FILES):
        numbers = range(file * rows // FILES, (file + 1) * rows // FILES)
        table = {
            "id": list(numbers),
            "text": [" ".join(draw.choices(WORDS, k=4)) for _ in numbers],
            "model": [draw.choice(names) for _ in numbers],
        }
        parquet.write_table(pyarrow.table(table), folder / "texts" / f"{file}.parquet", row_group_size=GROUP_ROWS)


def start(folder: Path, source: str, output: Path, workers: int, batch: int) -> list[Worker]:
    command = ["predict", "--input", source, "--output", f"{output}/", "--adapter-column", "model"]
    command += ["--adapters", str(folder / "adapters"), "--batch-size", str(batch)]
    return [
        Worker(
            subprocess.Popen(
                [sys.executable, "-c", RUN, *command, "--shard", f"{number + 1}/{workers}"],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stderr=(folder / f"log.{number}").open("a"),
            )
        )
        for number in range(workers)
    ]


def watch(workers: Sequence[Worker], output: Path, until_parts: int | None = None) -> None:
    """Sample the workers until they end, or until so many parts exist."""
    while any(worker.process.poll() is None for worker in workers):
        for worker in workers:
            worker.sample()
        if until_parts is not None and len(list(output.glob("*.parquet"))) >= until_parts:
            return
        time.sleep(0.5)
    assert [worker.process.returncode for worker in workers] == [0] * len(workers), "see log.*"


def scaling(folder: Path, files: int, batch: int, repeats: int) -> None:
    """Label the first files with one and with two workers. Start and first part are left out of each rate."""
    source = ",".join(str(folder / "texts" / f"{file}.parquet") for file in range(files))
    print("| workers | rows | rows/s | CPU ms a row | MB of each worker |\n|---|---|---|---|---|")
    for workers in (1, 2) * repeats:
        output = folder / "scaling"
        shutil.rmtree(output, ignore_errors=True)
        running = start(folder, source, output, workers, batch)
        watch(running, output)
        ends = sorted(path.stat().st_mtime for path in output.glob("*.parquet"))
        rows = sum(parquet.read_metadata(path).num_rows for path in output.glob("*.parquet"))
        began, ended = ends[workers - 1], ends[-workers]  # all workers are busy between
        part = rows / len(ends)
        busy = part * (len(ends) - 2 * workers + 1)
        cpu = sum(at(worker, ended) - at(worker, began) for worker in running)
        memory = ", ".join(f"{max(size for _, size, _ in worker.samples):.0f}" for worker in running)
        print(
            f"| {workers} | {rows:,} | {busy / (ended - began):.0f} | {cpu / busy * 1e3:.3f} | {memory} |", flush=True
        )


def at(worker: Worker, moment: float) -> float:
    """Return the CPU seconds of a worker at a moment."""
    return min(worker.samples, key=lambda sample: abs(sample[0] - moment))[2]


def kills(folder: Path, batch: int) -> None:
    """Label all files with two workers that are killed twice, and check the parts."""
    output, total = folder / "out", sum(item.num_rows for item in metadata(folder / "texts"))
    parts = -(-total // 10_000)
    began, first, cpu = time.time(), len(list(output.glob("*.parquet"))), 0.0
    for fraction in (1 / 3, 2 / 3, None):
        if fraction is not None and first >= parts * fraction:
            continue
        workers = start(folder, str(folder / "texts"), output, 2, batch)
        watch(workers, output, None if fraction is None else round(parts * fraction))
        for worker in workers:
            if fraction is not None:
                worker.process.send_signal(signal.SIGKILL)
                worker.process.wait()
            cpu += worker.samples[-1][2]
            print(f"memory of a worker: {memory_by_quarter(worker)}", flush=True)
        left = len([*output.glob(".*.partial")])
        print(f"{len(list(output.glob('*.parquet')))} of {parts} parts, {left} incomplete files left", flush=True)
    seconds, done = time.time() - began, (parts - first) * 10_000
    print(f"{done:,} rows in {seconds:.0f} s with starts and kills: {done / seconds:.0f} rows/s; {cpu:.0f} CPU s")
    check(folder, output, total)


def memory_by_quarter(worker: Worker) -> str:
    """Return the least and greatest MB of each quarter of a worker's time, after its start."""
    sizes = [size for _, size, _ in worker.samples[40:]]
    quarters = [sizes[place * len(sizes) // 4 : (place + 1) * len(sizes) // 4] for place in range(4)]
    return ", ".join(f"{min(quarter):.0f}-{max(quarter):.0f}" for quarter in quarters if quarter) + " MB"


def metadata(folder: Path) -> Iterator["parquet.FileMetaData"]:
    for path in sorted(folder.glob("*.parquet")):
        yield parquet.read_metadata(path)


def check(folder: Path, output: Path, total: int) -> None:
    """Check that each row is there once, with the label of its adapter, and a sample with answers of its own."""
    seen, wrong, sample = bytearray(total), 0, []
    labels = {name: set(names) for name, (task, _, names) in ADAPTERS.items() if task == "classification"}
    paths = sorted(output.glob("*.parquet"))
    draw = random.Random(1)
    for path in paths:
        table = parquet.read_table(path, columns=["id", "text", "model", "answer", "label"])
        columns = zip(*(table[name].to_pylist() for name in ("id", "model", "label")), strict=True)
        for number, model, label in columns:
            seen[number] += 1
            wrong += label not in labels.get(model, {None})
        sample += table.take(draw.sample(range(table.num_rows), min(SAMPLE // len(paths), table.num_rows))).to_pylist()
    with Dock.open(str(folder / "model"), device="cpu") as dock:
        for name in ADAPTERS:
            dock.load(folder / "adapters" / f"{name}.safetensors", name)
        expected = dock.predict([row["model"] for row in sample], [row["text"] for row in sample], batch_size=1)
    differing = sum(not alike(json.loads(row["answer"]), answer) for row, answer in zip(sample, expected, strict=True))
    once, missing = seen.count(1), seen.count(0)
    print(
        f"{total:,} rows: {once:,} once, {missing:,} missing, {total - once - missing:,} repeated, "
        f" {wrong} with a label of another adapter; {differing} of {len(sample):,} differ from the answer alone"
    )


def alike(answer: object, expected: object) -> bool:
    """Compare answers; scores have four decimals, of which the last depends on the batch."""
    if isinstance(answer, dict) and isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(alike(answer[key], expected[key]) for key in answer)
    if isinstance(answer, list) and isinstance(expected, list):
        return len(answer) == len(expected) and all(map(alike, answer, expected))
    if isinstance(answer, float) and isinstance(expected, float):
        return abs(answer - expected) < 2e-4
    return answer == expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=["lake", "scaling", "kills"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--files", type=int, default=1, help="files that scaling labels")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args()
    print(machine(), flush=True)
    if options.phase == "lake":
        make_lake(options.folder, options.rows)
    elif options.phase == "scaling":
        scaling(options.folder, options.files, options.batch_size, options.repeats)
    else:
        kills(options.folder, options.batch_size)


if __name__ == "__main__":
    main()
