"""Reading: short labelled texts from JSON lines, CSV and Parquet, beside the ``datasets`` library alone, in one run.

    python benchmarks/reading.py [--records 1000000] [--rounds 3] [--stages words,tokens]

Each side runs in a process of its own, in turn. ``datasets`` builds its table in an empty cache and iterates over its
rows; ours reads the file as ``adapt train --task classification`` does, up to clean records with texts and labels.
``tokens`` adds the encoding of ours by MiniLM's tokenizer, and of ``datasets`` by the same tokenizer in batches. Prints
records a second, the ratio of ours to ``datasets`` (medians) by wall time and by CPU time, and the peak of resident
memory.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from machine import machine

WORDS = (
    "river",
    "rain",
    "market",
    "train",
    "garden",
    "answer",
    "letter",
    "winter",
    "music",
    "doctor",
    "bridge",
    "paper",
)
LABELS = ("praise", "question", "complaint")
FORMATS = ("jsonl", "csv", "parquet")


def rows(count: int) -> Iterator[dict[str, str]]:
    """Yield short texts (8 to 15 words) with a label; all differ."""
    for number in range(count):
        words = [WORDS[(number * 7 + place * (number % 11 + 1)) % len(WORDS)] for place in range(8 + number % 8)]
        yield {"text": f"{' '.join(words)} {number}", "label": LABELS[number % len(LABELS)]}


def write(folder: Path, count: int) -> None:
    """Write the same rows in each format."""
    import pyarrow as pa
    from pyarrow import parquet

    with (folder / "train.jsonl").open("w") as lines, (folder / "train.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, ("text", "label"))
        writer.writeheader()
        for row in rows(count):
            lines.write(json.dumps(row) + "\n")
            writer.writerow(row)
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    source = rows(count)
    with parquet.ParquetWriter(folder / "train.parquet", schema) as file:
        while part := list(islice(source, 100_000)):
            file.write_table(pa.Table.from_pylist(part, schema))


def ours(path: Path, tokens: bool) -> int:
    """Return the number of clean records; with ``tokens`` they are encoded too."""
    from adaptdock.engine.data.sources import Reader, Source
    from adaptdock.plugins import registry

    kind = registry.load("task", "classification")
    task = kind(kind.Options())
    records = task.clean(Reader(kind, Source(data=str(path))).splits()["train"], "train").records
    if tokens:
        from adaptdock.plugins.contracts import Reading

        task = task.fit(records)
        reading = Reading(tokenizer(), 256, False)
        return sum(1 for record in records if task.encode(record, reading, True))
    return len(records)


def theirs(path: Path, tokens: bool) -> int:
    """Return the number of rows of the ``datasets`` library; with ``tokens`` they are encoded too."""
    import datasets

    datasets.disable_progress_bars()
    kind = "json" if path.suffix == ".jsonl" else path.suffix[1:]
    with tempfile.TemporaryDirectory() as cache:
        table = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=cache)
        if not tokens:
            return sum(1 for _ in table)
        encode = tokenizer()
        batches = table.iter(batch_size=1000)
        return sum(len(encode(batch["text"], truncation=True, max_length=256)["input_ids"]) for batch in batches)


def tokenizer() -> Any:
    """Return MiniLM's tokenizer."""
    from transformers import AutoTokenizer

    from adaptdock.backbones.transformers.checkpoint import resolve

    return AutoTokenizer.from_pretrained(resolve("minilm").folder)


def one(side: str, path: Path, tokens: bool) -> None:
    """Print wall and CPU seconds, records and the peak of resident memory in megabytes, as JSON."""
    import datasets  # noqa: F401  # both sides import it before the clock starts
    import torch  # noqa: F401

    before, cpu_before = time.perf_counter(), time.process_time()
    count = {"ours": ours, "datasets": theirs}[side](path, tokens)
    seconds, cpu = time.perf_counter() - before, time.process_time() - cpu_before
    print(json.dumps({"seconds": seconds, "cpu": cpu, "records": count, "peak": peak_memory()}))


def peak_memory() -> float:
    """Return the peak of this process's resident memory in MB; ru_maxrss would count the parent's before exec too."""
    status = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def main() -> None:
    """Measure each format on both sides, in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", default="words,tokens")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        side, path, tokens = arguments.one
        one(side, Path(path), tokens == "tokens")
        return
    print(machine(), f"\n{arguments.records} records, {arguments.rounds} rounds\n")
    columns = "ours, records/s | datasets, records/s | ratio | ratio by CPU | peak MB, ours | peak MB, datasets"
    print(f"| up to | format | {columns} |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, arguments.records)
        for stage in arguments.stages.split(","):
            for layout in FORMATS:
                taken: dict[str, list[dict[str, float]]] = {"ours": [], "datasets": []}
                for _ in range(arguments.rounds):
                    for side, measured in taken.items():
                        command = [sys.executable, __file__, "--one", side, str(folder / f"train.{layout}"), stage]
                        done = subprocess.run(command, check=True, capture_output=True, text=True)
                        measured.append(json.loads(done.stdout.splitlines()[-1]))
                rates = {side: statistics.median(m["records"] / m["seconds"] for m in taken[side]) for side in taken}
                peaks = {side: statistics.median(m["peak"] for m in taken[side]) for side in taken}
                cpu = {side: statistics.median(m["cpu"] for m in taken[side]) for side in taken}
                ratio, cpu_ratio = rates["ours"] / rates["datasets"], cpu["datasets"] / cpu["ours"]
                print(
                    f"| {stage} | {layout} | {rates['ours']:,.0f} | {rates['datasets']:,.0f} | {ratio:.2f} "
                    f"| {cpu_ratio:.2f} | {peaks['ours']:,.0f} | {peaks['datasets']:,.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
