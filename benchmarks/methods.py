"""Which method to take: every method on three tasks with several seeds, by metric, time, size and forgetting.

    python benchmarks/methods.py FOLDER --rows FILE [--methods lora,vera] [--tasks ner,pos] [--seeds 3] [--limit 600]
    python benchmarks/methods.py FOLDER --rates 1e-3,4e-3 --methods vera       search of a learning rate
    python benchmarks/methods.py FOLDER --rows FILE --page docs/methods.md     write the tables of a page

FOLDER holds the data sets by name: banking77 (classification), wnut17 (ner), ud_en_ewt (pos), scitldr (forgetting).
So that a run takes seconds on one core, the backbone is MiniLM without its upper three layers (``--drop-layers``), and
texts have 4 to 10 words. There are ``--sample`` of them (192) to train on, 60 to validate and 200 to test, the same for
all methods and seeds; of banking77 every fourth intent. A method has its recipe of the task, else the default one with
the learning rate of ``RATES``, and ``--epochs`` (3). Seconds are CPU time of a run without loading the backbone, with
the fit of the head, validations and test.

Forgetting is what texts of another kind lose while the adapter acts on them: a summary of a paper (scitldr) is looked
for among 100 by the title's vector, the mean of the last hidden states. It is the points of accuracy lost against the
bare backbone, for the adapter of the first seed. Rows without an adapter lose nothing, whatever the method.

``--rows`` has a line for each run; the same command trains only what the file lacks, and ``--limit`` ends it after so
many seconds.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

from machine import machine

from adaptdock import Dock, train
from adaptdock.engine.core.assembly import HEAD, make_task
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.text_vectors import text_vectors
from adaptdock.engine.training.planning.hyperparameters import with_precision
from adaptdock.errors import AdaptError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Composite, LoadOptions, Record

Row = dict[str, Any]
Splits = dict[str, list[Record]]
TASKS: dict[str, tuple[str, dict[str, str]]] = {
    "classification": ("banking77", {"train": "train.csv", "test": "test.csv"}),
    "ner": (
        "wnut17",
        {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"},
    ),
    "pos": ("ud_en_ewt", {"train": "en_ewt-ud-dev.conllu", "test": "en_ewt-ud-test.conllu"}),
}
"""Task -> data set, and the file of each split."""
SHORTEST, LONGEST = 4, 10
"""Words of a text."""
CLASSES = 4
"""Every so many-th class of a data set with classes is used."""
VALIDATED, TESTED, TITLES = 60, 200, 100
SAME_AS_LORA = "alora"
"""Without invocation tokens, which belong to causal language models, it computes what lora does."""
RATE = 4e-3
"""Learning rate of methods without a recipe of the task: the default, 0.001, changes little in so few steps."""
RATES: dict[str, float] = {"vera": 1.6e-2, "boft": 1.6e-2, "full": 1e-4}
"""Learning rates of methods: from ``--rates``, and for ``full`` that of its recipe of other tasks."""
MARKS = "<!-- measured -->", "<!-- end of measured -->"


def methods() -> list[str]:
    """Return the methods that need no trained adapters."""
    names = {plugin.name for plugin, loaded in registry.usable("method") if not issubclass(loaded, Composite)}
    return sorted(names - {SAME_AS_LORA})


# ------------------------------------------------------------------------------------------ data


def short_splits(folder: Path, task: str, sample: int) -> Splits:
    """Return the short records of each split of a task's data set, drawn at random; labels take turns."""
    name, files = TASKS[task]
    paths = {split: str(folder / name / file) for split, file in files.items()}
    records, _ = load_splits(Source(**paths), registry.load("task", task))
    sizes = {"train": sample, "validation": VALIDATED, "test": TESTED}
    classes = {record["label"] for record in records["train"] if "label" in record}
    used = set(sorted(classes)[::CLASSES])
    return {
        split: _selected([record for record in records[split] if _is_used(record, used)], size)
        for split, size in sizes.items()
    }


def _is_used(record: Record, classes: set[Any]) -> bool:
    words = record["tokens"] if "tokens" in record else record["text"].split()
    return SHORTEST <= len(words) <= LONGEST and record.get("label", None) in (classes or {None})


def _selected(records: Sequence[Record], count: int) -> list[Record]:
    """Return some records in random order, without the places that they come from; labels take turns."""
    order = Random(0).sample(range(len(records)), len(records))
    seen: Counter[str] = Counter()
    turns = {}
    for number in order:
        label = str(records[number].get("label", number))
        turns[number], seen[label] = seen[label], seen[label] + 1
    drawn = sorted(order, key=turns.__getitem__)[:count]  # stable: random within a turn
    Random(0).shuffle(drawn)
    return [{name: value for name, value in records[number].items() if name != "where"} for number in drawn]


class Retrieval:
    """Titles of papers, for each of which its summary is looked for: what an adapter may forget."""

    def __init__(self, folder: Path, backbone: Backbone) -> None:
        lines = (folder / "scitldr" / "test.jsonl").read_text("utf-8").splitlines()
        papers = [paper for paper in map(json.loads, lines) if len(paper["title"].split()) <= LONGEST]
        drawn = Random(0).sample(papers, TITLES)
        self.texts = [paper["title"] for paper in drawn] + [paper["target"][0] for paper in drawn]
        self.dock, self.task = Dock(backbone), make_task("classification", {"labels": ("a", "b")})
        self.bare = self._accuracy(())

    def loss(self, file: Path) -> float:
        """Return the points of accuracy that the texts lose with the adapter of a file."""
        name = self.dock.load(file, "measured", probes=False)
        try:
            with self.dock.boarding([name]) as (row,):
                return round(self.bare - self._accuracy(row), 1)
        finally:
            self.dock.unload(name)

    def _accuracy(self, row: Any) -> float:
        vectors = text_vectors(self.dock, row, self.task, [{"text": text} for text in self.texts], 64)
        titles, summaries = vectors.split(TITLES)
        nearest = (titles @ summaries.T).argmax(1).tolist()
        return 100 * sum(place == number for number, place in enumerate(nearest)) / TITLES


# ------------------------------------------------------------------------------------------ runs


def runs(arguments: argparse.Namespace, done: set[tuple[str, str, int]]) -> Iterator[Row]:
    """Train what the file of rows lacks, a seed after the other, and yield a row of each run."""
    end = time.monotonic() + arguments.limit
    backbone = _backbone(arguments)
    retrieval = Retrieval(arguments.folder, backbone)
    if not done:
        yield {"machine": machine(), "bare": retrieval.bare}
    data = {task: short_splits(arguments.folder, task, arguments.sample) for task in arguments.tasks}
    for seed, task, method in product(range(arguments.seeds), arguments.tasks, arguments.methods):
        if time.monotonic() > end:
            return
        if (task, method, seed) not in done:
            options = {"epochs": arguments.epochs, "seed": seed, **_rate(task, method)}
            yield {
                "task": task,
                "method": method,
                "seed": seed,
                **run(backbone, task, method, data[task], options, retrieval),
            }


def _rate(task: str, method: str) -> dict[str, float]:
    """Return the learning rate, unless the task has a recipe for the method."""
    return {} if method in registry.load("task", task).recipes else {"learning_rate": RATES.get(method, RATE)}


def _backbone(arguments: argparse.Namespace) -> Backbone:
    """Return the lower layers of the default backbone, in the precision of training on this machine."""
    options = LoadOptions(device=arguments.device, drop_layers=arguments.drop_layers)
    return load_backbone(registry.DEFAULT_BACKBONE, with_precision(options))


def run(
    backbone: Backbone, task: str, method: str, data: Splits, options: Mapping[str, Any], retrieval: Retrieval
) -> Row:
    """Train an adapter and return its measures; the reason if the method refuses."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        try:
            result = train(task, method, backbone, data, Path(folder) / "run", probe_data="none", **options)
        except AdaptError as error:
            return {"refused": str(error)}
        seconds = round(time.process_time() - started, 1)
        card, tensors = result.adapter.card, result.adapter.tensors
        return {
            "metric": card.metrics["test"][registry.load("task", task).metric],
            "seconds": seconds,
            "bytes": result.size,
            "weights": sum(tensor.numel() for name, tensor in tensors.items() if not name.startswith(f"{HEAD}.")),
            "head alone": bool(card.training.get("fitted_head", {}).get("kept")),
            "forgetting": retrieval.loss(result.file) if options["seed"] == 0 else None,
        }


def search(arguments: argparse.Namespace) -> None:
    """Print the validation metric of each learning rate, one seed each, on records that no table uses."""
    backbone = _backbone(arguments)
    for task in arguments.tasks:
        data = short_splits(arguments.folder, task, 2 * arguments.sample)
        splits = {"train": data["train"][arguments.sample :], "validation": data["train"][: arguments.sample]}
        for method in arguments.methods:
            for rate in arguments.rates:
                with tempfile.TemporaryDirectory() as folder:
                    options = {"epochs": arguments.epochs, "learning_rate": rate, "probe_data": "none", "seed": 100}
                    result = train(task, method, backbone, splits, Path(folder) / "run", **options)
                metric = f"eval_{registry.load('task', task).metric}"
                head = result.adapter.card.training.get("fitted_head", {}).get("validation", {})
                row = {
                    "task": task,
                    "method": method,
                    "rate": rate,
                    "fitted head": head.get(metric.removeprefix("eval_")),
                }
                row["validation"] = max(entry.get(metric, 0.0) for entry in result.history)
                print(json.dumps(row), flush=True)


# ----------------------------------------------------------------------------------------- table


def tables(rows: Sequence[Row]) -> str:
    """Return the table of metrics and that of costs, best method first, and the reasons of refusals."""
    runs_of = [row for row in rows if "method" in row]
    tasks = [task for task in TASKS if any(row["task"] == task for row in runs_of)]
    names = sorted(dict.fromkeys(row["method"] for row in runs_of), key=lambda name: -_average(runs_of, name, tasks))
    lines = ["| method | " + " | ".join(f"{task} ({registry.load('task', task).metric})" for task in tasks)]
    lines[0] += " | mean | seconds | MB | weights | forgetting | head alone |"
    lines.append(f"|---{'|---' * (len(tasks) + 6)}|")
    lines += [_line([row for row in runs_of if row["method"] == name], name, tasks) for name in names]
    lines += [f"\n{row['method']}, {row['task']}: {row['refused']}" for row in runs_of if "refused" in row]
    return "\n".join(lines)


def _average(rows: Sequence[Row], method: str, tasks: Sequence[str]) -> float:
    """Return the mean of a method's metric over the tasks, 0 for a task that it refuses."""
    metrics = {task: [row["metric"] for row in rows if _is_run(row, method, task)] for task in tasks}
    return statistics.mean(statistics.mean(values) if values else 0.0 for values in metrics.values())


def _is_run(row: Mapping[str, Any], method: str, task: str) -> bool:
    return row["method"] == method and row["task"] == task and "metric" in row


def _line(rows: Sequence[Row], method: str, tasks: Sequence[str]) -> str:
    first = [row for row in rows if "seconds" in row]
    cells = [_spread([row["metric"] for row in rows if _is_run(row, method, task)]) for task in tasks]
    cells.append(f"{_average(rows, method, tasks):.1f}")
    if first:
        cells.append("{:.1f}".format(statistics.mean(row["seconds"] for row in first)))
        cells.append("{:.2f}".format(statistics.mean(row["bytes"] for row in first) / 1e6))
        cells.append("{:,}".format(max(row["weights"] for row in first)))
        lost = [row["forgetting"] for row in first if row["forgetting"] is not None]
        cells.append(f"{statistics.mean(lost):.1f}" if lost else "-")
        cells.append(f"{sum(row.get('head alone', False) for row in rows)}/{len(rows)}")
    return f"| {method} | {' | '.join(cells)} |"


def _spread(metrics: Sequence[float]) -> str:
    if not metrics:
        return "-"
    spread = f" +- {statistics.stdev(metrics):.1f}" if len(metrics) > 1 else ""
    return f"{statistics.mean(metrics):.1f}{spread}"


def write_page(page: Path, rows: Sequence[Row]) -> None:
    """Replace the measured part of a page; the words around it are a person's."""
    before, _, rest = page.read_text("utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    run = next(row for row in rows if "machine" in row)
    about = f"{run['machine']}. The bare backbone finds {run['bare']:.0f} of {TITLES} summaries."
    page.write_text(f"{before}{MARKS[0]}\n{tables(rows)}\n\n{about}\n{MARKS[1]}{after}", "utf-8")


def main() -> None:
    """Search rates, write a page, or train what is lacking and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=methods())
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(TASKS))
    parser.add_argument("--rates", type=lambda text: list(map(float, text.split(","))))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--drop-layers", type=int, default=3)
    parser.add_argument("--limit", type=float, default=float("inf"))
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    file: Path | None = arguments.rows
    rows: list[Row] = []
    if file is not None and file.exists():
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    if arguments.page is not None:
        write_page(arguments.page, rows)
        return
    if arguments.rates:
        search(arguments)
        return
    done = {(row["task"], row["method"], row["seed"]) for row in rows if "method" in row}
    for row in runs(arguments, done):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if file is not None:
            with file.open("a", encoding="utf-8") as stream:
                print(json.dumps(row), file=stream)
    print(tables(rows))


if __name__ == "__main__":
    main()
