"""Trials of a sweep in one pass, beside the same trials one after the other.

    python benchmarks/together.py FOLDER [--rows a,b,d] [--repeats 3] [--backbone minilm] [--records 200]

FOLDER holds the data sets by name. Rows:

    a  ranks and rates of lora on wnut17, 8 trials
    b  four methods at two rates each on banking77, 8 trials
    d  32 settings of a head on frozen features (classification) on banking77

Both sides are ``adapt sweep`` with the same grid, seed and steps, and without pruning; they differ in ``--together``
alone. Each run has a process of its own, so that its peak of memory can be told; the time starts after the imports.
The runs of the sides take turns, and medians are shown, with the largest difference of a weight between the sides
(float32) and of the best validation metric.
"""

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from machine import machine

RATES = "learning_rate=1e-4,3e-4,1e-3,3e-3"
ROWS = {
    "a": ("ner", 8, ("--method", "lora", "--search", "rank=4,16", "--search", RATES, "--epochs", "2")),
    "b": (
        "classification",
        8,
        ("--search", "method=lora,bottleneck,prefix,ia3", "--search", "learning_rate=3e-4,1e-3", "--epochs", "2"),
    ),
    "d": (
        "classification",
        32,
        (
            *("--method", "features", "--search", RATES, "--search", "weight_decay=0,0.01,0.1,0.3"),
            *("--search", "max_grad_norm=0.5,1", "--epochs", "5", "--no-backbone-dropout", "--head-start", "random"),
        ),
    ),
}
"""The task of a row, its trials, and the arguments of its sweep."""


def main() -> None:
    """Write the data, run all sides in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--records", type=int, default=200)
    arguments = parser.parse_args()
    print(machine())
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("row  trials  in turn s  in one pass s  faster  in turn MB  in one pass MB  weights differ  metric differs")
    for row in arguments.rows.split(","):
        with tempfile.TemporaryDirectory() as place:
            print(_measured(row, arguments, Path(place)), flush=True)


def _measured(row: str, arguments: argparse.Namespace, place: Path) -> str:
    task, trials, flags = ROWS[row]
    data = _data(task, arguments.folder, place / "data", arguments.records)
    common = ["sweep", "--task", task, "--data", str(data), "--backbone", arguments.backbone, *flags]
    common += ["--sampler", "grid", "--no-prune", "--precision", "fp32", "--store", "float32", "--probe-data", "none"]
    runs: dict[int, list[tuple[float, float]]] = {1: [], trials: []}
    for repeat in range(arguments.repeats):
        for together, measured in runs.items():
            folder = place / f"{together}-{repeat}"
            command = [*common, "--together", str(together), "--run-dir", str(folder), "-o", f"{folder}.safetensors"]
            measured.append(_run(command))
    seconds = {together: statistics.median(time for time, _ in measured) for together, measured in runs.items()}
    memory = {together: statistics.median(size for _, size in measured) for together, measured in runs.items()}
    weights, metric = _differences(place / "1-0", place / f"{trials}-0")
    return (
        f"{row}    {trials:6} {seconds[1]:10.1f} {seconds[trials]:14.1f} {seconds[1] / seconds[trials]:7.2f} "
        f"{memory[1]:11.0f} {memory[trials]:15.0f} {weights:15.1e} {metric:15.2f}"
    )


def _data(task: str, source: Path, folder: Path, count: int) -> Path:
    """Write ``count`` training and half as many validation records, drawn at random with a fixed seed."""
    folder.mkdir()
    random = Random(0)
    if task == "ner":
        sentences = (source / "wnut17" / "wnut17train.conll").read_text().strip().split("\n\n")
        records = random.sample([part for part in sentences if part.strip()], count * 3 // 2)
        for split, part in (("train", records[:count]), ("validation", records[count:])):
            (folder / f"{split}.conll").write_text("\n\n".join(part) + "\n")
        return folder
    with (source / "banking77" / "train.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = sorted({row["category"] for row in rows})[:10]
    rows = random.sample([row for row in rows if row["category"] in labels], count * 3 // 2)
    for split, part in (("train", rows[:count]), ("validation", rows[count:])):
        lines = [json.dumps({"text": row["text"], "label": row["category"]}) for row in part]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _run(command: Sequence[str]) -> tuple[float, float]:
    """Run a command of ``adapt`` in a process, and return its seconds and its peak of memory in MB."""
    child = [sys.executable, __file__, "--child", *command]
    ended = subprocess.run(child, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stderr)
    seconds, size = ended.stdout.splitlines()[-1].split()
    return float(seconds), float(size)


def _child(command: Sequence[str]) -> None:
    import adaptdock.cli.sweep  # noqa: F401 - the time starts after the imports
    from adaptdock.cli import main as adapt

    start = time.perf_counter()
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(sys.stderr):
        status = adapt(list(command))
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    sys.exit(status)


def _differences(first: Path, second: Path) -> tuple[float, float]:
    """Return the largest difference of a weight between equal trials of two sweeps, and that of the best metrics."""
    from adaptdock.hub.artefact.file import read_file

    sides = []
    for folder in (first, second):
        rows = json.loads((folder / "trials.json").read_text())["trials"]
        sides.append({json.dumps(row["values"], sort_keys=True): row for row in rows})
    largest = 0.0
    for key, row in sides[0].items():
        tensors, others = (
            read_file(folder / f"trial-{number:04d}" / "best.safetensors").tensors
            for folder, number in ((first, row["number"]), (second, sides[1][key]["number"]))
        )
        largest = max(largest, *(float((tensor - others[name]).abs().max()) for name, tensor in tensors.items()))
    best = [max(row["score"] for row in side.values()) for side in sides]
    return largest, abs(best[0] - best[1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2:])
    main()
