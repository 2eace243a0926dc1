"""A soak: adapters are swapped while many threads ask, and every answer is checked.

    python benchmarks/soak.py [--rows 20000] [--swaps 1000] [--threads 8] [--adapters 24]

Each adapter is a tagger that answers with its own number whatever it reads, so a wrong slot, head or
version shows in the answer. Batches mix methods; names are replaced in place (a name then answers with the
number of one of its versions, and nothing else), undocked and docked again under way. Memory is the
resident set size after the first tenth of the rows and at the end.
"""

import argparse
import gc
import logging
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

import torch
from machine import machine
from mixed import METHODS, adapter
from swap import resident_bytes

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.residency import Residency
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.plugins.contracts import LoadOptions

VERSIONS = 5
LABELS = 40
TEXTS = ("rain", "ada met bob", "the quick brown fox jumps over the lazy dog", "a b c d e f g", "oslo in june")


def identity(backbone: Any, method: str, seed: int, number: int) -> AdapterFile:
    """Return an adapter that finds the entity type ``number`` in every word, its method acting all the while."""
    made = adapter(backbone, method, seed)
    options = {"labels": [f"T{label:02}" for label in range(LABELS)]}
    card = made.card.model_copy(update={"task": made.card.task.model_copy(update={"options": options})})
    classes, width = 1 + 2 * LABELS, backbone.width
    bias = torch.zeros(classes)
    bias[1 + 2 * number] = 1e4
    tensors = {name: tensor for name, tensor in made.tensors.items() if not name.startswith("head.")}
    weight = 0.01 * torch.randn(classes, width, generator=torch.Generator().manual_seed(seed))
    return AdapterFile(card, {**tensors, "head.weight": weight.half(), "head.bias": bias.half()})


class Soak:
    """Threads that ask and one that swaps, on one dock."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        backbone = load_backbone("minilm", LoadOptions())
        self.residency = Residency(Dock(backbone))
        self.names = [f"n{number}" for number in range(arguments.adapters)]
        self.files: dict[str, list[Path]] = {}
        methods = list(METHODS)
        for number, name in enumerate(self.names):
            self.files[name] = []
            for version in range(VERSIONS):
                label = (number * VERSIONS + version) % LABELS
                file = folder / f"{name}-{label:02}-{version}.safetensors"
                write_file(file, identity(backbone, methods[number % len(methods)], number * VERSIONS + version, label))
                self.files[name].append(file)
            self.residency.know(name, self.files[name][0])
        self.lock = threading.Lock()
        self.rows = self.wrong = self.swaps = 0
        self.errors: list[str] = []
        self.milliseconds: list[float] = []
        self.early_bytes = 0

    def labels(self, name: str) -> set[str]:
        """Return what a name may answer: one of its versions' numbers."""
        return {f"T{file.stem.split('-')[1]}" for file in self.files[name]}

    def ask(self, seed: int) -> None:
        draw = random.Random(seed)
        while self.rows < self.arguments.rows:
            names = [draw.choice(self.names) for _ in range(draw.choice((1, 4, 8, 16)))]
            texts = [draw.choice(TEXTS) for _ in names]
            try:
                answers = self.residency.predict(names, texts)
            except Exception as error:  # whatever it is, it is the soak's finding
                self.errors.append(f"{type(error).__name__}: {error}")
                return
            wrong = 0
            for name, answer in zip(names, answers, strict=True):
                found = {entity["label"] for entity in answer["entities"]}
                wrong += len(found) != 1 or not found <= self.labels(name)
            with self.lock:
                self.rows += len(names)
                self.wrong += wrong
                if not self.early_bytes and self.rows > self.arguments.rows / 10:
                    gc.collect()
                    self.early_bytes = resident_bytes()

    def swap(self) -> None:
        draw = random.Random(0)
        while self.swaps < self.arguments.swaps and not self.errors:
            if self.rows >= self.arguments.rows * self.swaps / self.arguments.swaps:
                started = time.perf_counter()
                name = draw.choice(self.names)
                self.residency.know(name, draw.choice(self.files[name]))
                with self.residency.present([name]):
                    self.milliseconds.append(1e3 * (time.perf_counter() - started))
                self.swaps += 1
            else:
                time.sleep(0.001)

    def run(self) -> bool:
        """Run to the end, print what happened, and return whether all was well."""
        started = time.perf_counter()
        threads = [threading.Thread(target=self.ask, args=(seed,)) for seed in range(self.arguments.threads)]
        threads.append(threading.Thread(target=self.swap))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        gc.collect()
        print(
            f"{self.rows:,} rows from {self.arguments.threads} threads in {seconds:.0f} s, {self.swaps:,} swaps "
            f"(median {statistics.median(self.milliseconds):.1f} ms from file to docked under load), "
            f"{self.wrong} wrong answers, {len(self.errors)} errors; memory {self.early_bytes / 1e6:.0f} MB "
            f"after a tenth, {resident_bytes() / 1e6:.0f} MB at the end"
        )
        for error in self.errors:
            print(error)
        return not self.wrong and not self.errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--adapters", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        if not Soak(arguments, Path(folder)).run():
            sys.exit(1)


if __name__ == "__main__":
    main()
