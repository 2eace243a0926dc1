"""Which method to take: every method on three tasks with several seeds, by metric, time and size.

    python benchmarks/methods.py FOLDER [--methods lora,vera] [--tasks ner,pos] [--seeds 3] [--sample 1000]
        [--tested 500] [--epochs 3] [--rows FILE] [--device cuda]

FOLDER holds the data sets by name: banking77 (classification), wnut17 (ner), ud_en_ewt (pos). Each method has the
recipe of the task, or the task's default recipe. ``--sample`` takes that many training records, and ``--tested`` that
many to test on; a seed selects both and is the seed of the training, the same for every method. Labels of texts take
turns in a selection, so all of them are in the training records if there are enough. ``--rows`` adds a line
to a file after each run; the same command later trains only what the file lacks. The table has the mean and the
standard deviation over the seeds of the task's metric on test records, the seconds of a run without loading the
backbone, the megabytes of the adapter file, and the trained weights of the method. ``features`` is the head alone.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

from machine import machine

from adaptdock import train
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.errors import AdaptError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Composite, LoadOptions, Record

Row = dict[str, Any]
TASKS: dict[str, tuple[str, dict[str, str]]] = {
    "classification": ("banking77", {"train": "train.csv", "test": "test.csv"}),
    "ner": ("wnut17", {"train": "wnut17train.conll", "test": "emerging.test.annotated"}),
    "pos": ("ud_en_ewt", {"train": "en_ewt-ud-dev.conllu", "test": "en_ewt-ud-test.conllu"}),
}
"""Task -> data set, and the file of each split."""


def methods() -> list[str]:
    """Return the methods that need no trained adapters."""
    return sorted(plugin.name for plugin, loaded in registry.usable("method") if not issubclass(loaded, Composite))


def runs(arguments: argparse.Namespace, done: set[tuple[str, str, int]]) -> Iterator[Row]:
    """Train what the file of rows lacks, and yield a row of each run."""
    backbone = load_backbone(registry.DEFAULT_BACKBONE, LoadOptions(device=arguments.device))
    for task in arguments.tasks:
        name, files = TASKS[task]
        paths = {split: str(arguments.folder / name / file) for split, file in files.items()}
        records, _ = load_splits(Source(**paths), registry.load("task", task))
        for seed in range(arguments.seeds):
            sizes = {"train": arguments.sample, "validation": arguments.tested, "test": arguments.tested}
            data = {split: selected(records[split], sizes[split], seed) for split in sizes}
            for method in arguments.methods:
                if (task, method, seed) not in done:
                    yield {
                        "task": task,
                        "method": method,
                        "seed": seed,
                        **run(backbone, task, method, data, seed, arguments),
                    }


def selected(records: Sequence[Record], count: int | None, seed: int) -> list[Record]:
    """Return some records in random order, without the places that they come from; labels take turns."""
    order = Random(seed).sample(range(len(records)), len(records))
    seen: Counter[str] = Counter()
    turns = {}
    for number in order:
        label = str(records[number].get("label", number))
        turns[number], seen[label] = seen[label], seen[label] + 1
    drawn = sorted(order, key=turns.__getitem__)[:count]  # stable: random within a turn
    Random(seed).shuffle(drawn)
    return [{name: value for name, value in records[number].items() if name != "where"} for number in drawn]


def run(backbone: Backbone, task: str, method: str, data: Any, seed: int, arguments: argparse.Namespace) -> Row:
    """Train an adapter and return its metric, seconds, bytes and weights; the reason if the method refuses."""
    options = {"seed": seed} | ({"epochs": arguments.epochs} if arguments.epochs else {})
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = train(task, method, backbone, data, Path(folder) / "run", **options)
        except AdaptError as error:
            return {"refused": str(error)}
        tensors = result.adapter.tensors
        return {
            "metric": result.adapter.card.metrics["test"][registry.load("task", task).metric],
            "seconds": result.seconds,
            "bytes": result.size,
            "weights": sum(tensor.numel() for name, tensor in tensors.items() if not name.startswith("head.")),
            "epochs": result.epochs,
        }


def table(rows: Sequence[Row]) -> None:
    """Print the table, one line for each method."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = " | ".join(f"{task} ({registry.load('task', task).metric}) | seconds | MB" for task in tasks)
    print(f"\n| method | {columns} | weights |\n|---{'|---' * (3 * len(tasks) + 1)}|")
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        cells = [cell for task in tasks for cell in _cells([row for row in of_method if row["task"] == task])]
        weights = max((row["weights"] for row in of_method if "weights" in row), default=0)
        print(f"| {method} | {' | '.join(cells)} | {weights:,} |")
    for row in rows:
        if "refused" in row:
            print(f"\n{row['method']}, {row['task']}: {row['refused']}")


def _cells(rows: Sequence[Row]) -> list[str]:
    rows = [row for row in rows if "metric" in row]
    if not rows:
        return ["-", "-", "-"]
    metrics = [row["metric"] for row in rows]
    spread = f" +- {statistics.stdev(metrics):.1f}" if len(metrics) > 1 else ""
    seconds = statistics.mean(row["seconds"] for row in rows)
    return [
        f"{statistics.mean(metrics):.1f}{spread}",
        f"{seconds:.0f}",
        f"{max(row['bytes'] for row in rows) / 1e6:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=methods())
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--tested", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(machine())
    file: Path | None = arguments.rows
    rows: list[Row] = []
    if file is not None and file.exists():
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for row in runs(arguments, {(row["task"], row["method"], row["seed"]) for row in rows}):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if file is not None:
            with file.open("a", encoding="utf-8") as stream:
                print(json.dumps(row), file=stream)
    table(rows)


if __name__ == "__main__":
    main()
