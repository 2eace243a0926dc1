"""Swapping adapters: from a file, from host memory, between docked ones; beside PEFT, in one run.

    python benchmarks/swap.py [--rounds 40] [--residents 1000]

The adapter is LoRA of rank 8 on query and value of MiniLM, in 16 bit for this project and as PEFT saves
it for PEFT. "To the first answer" adds a batch of one row of 16 tokens. Each round does everything once,
in turn; medians. Memory is what the process gains while adapters are docked (resident set size).
"""

import argparse
import gc
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

import torch
from machine import machine
from mixed import adapter
from peft import LoraConfig, get_peft_model
from peft.utils.hotswap import hotswap_adapter

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import read_file, write_file
from adaptdock.plugins.contracts import LoadOptions

Step = Callable[[], object]


def ours(backbone: HuggingFaceBackbone, folder: Path) -> dict[str, Step]:
    """Return what is measured of this project."""
    dock, files = Dock(backbone), [folder / "a.safetensors", folder / "b.safetensors"]
    for seed, file in enumerate(files):
        write_file(file, adapter(backbone, "lora", seed))
    prepared = [dock.prepare(read_file(file)) for file in files]
    dock.dock(prepared[0], "x")
    for number in range(2):
        dock.dock(prepared[number], f"docked{number}")
    inputs = row()
    turn = {"next": 0}

    def other() -> int:
        turn["next"] ^= 1
        return turn["next"]

    def answer(name: str) -> None:
        with dock.boarding([name]) as rows:
            dock.hidden(rows, inputs)

    return {
        "bare file read": lambda: files[other()].read_bytes(),
        "file to docked": lambda: dock.load(files[other()], "x", replace=True),
        "file to first answer": lambda: (dock.load(files[other()], "x", replace=True), answer("x")),
        "host memory to docked": lambda: dock.dock(prepared[other()], "x", replace=True),
        "host memory to first answer": lambda: (dock.dock(prepared[other()], "x", replace=True), answer("x")),
        "an answer of a docked adapter": lambda: answer("x"),
        "an answer of the other docked one": lambda: answer(f"docked{other()}"),
    }


def theirs(backbone: HuggingFaceBackbone, folder: Path) -> dict[str, Step]:
    """Return what is measured of PEFT."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], init_lora_weights=False)
    model = get_peft_model(deepcopy(backbone.model), config, "a")
    model.add_adapter("b", config)
    model.save_pretrained(folder / "peft", selected_adapters=["a", "b"])
    model.eval()
    inputs, turn, loaded = row(), {"next": 0}, {"count": 0}

    def other() -> str:
        turn["next"] ^= 1
        return "ab"[turn["next"]]

    def load() -> None:
        name = f"loaded{loaded['count']}"
        loaded["count"] += 1
        model.load_adapter(str(folder / "peft" / other()), name)
        model.set_adapter(name)

    def unload() -> None:
        model.delete_adapter(f"loaded{loaded['count'] - 1}")
        model.set_adapter("a")

    def answer() -> None:
        with torch.inference_mode():
            model(**inputs)

    return {
        "PEFT load_adapter + set_adapter": load,
        "(clean up)": unload,
        "PEFT set_adapter": lambda: model.set_adapter(other()),
        "PEFT hotswap": lambda: hotswap_adapter(model, str(folder / "peft" / "b"), "a"),
        "PEFT hotswap to first answer": lambda: (hotswap_adapter(model, str(folder / "peft" / "b"), "a"), answer()),
    }


def row() -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, 20_000, (1, 16), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def residents(backbone: HuggingFaceBackbone, folder: Path, count: int) -> None:
    """Dock many adapters from files and print what memory they take."""
    dock, files = Dock(backbone), []
    for seed in range(10):
        files.append(folder / f"r{seed}.safetensors")
        size = write_file(files[-1], adapter(backbone, "lora", seed))
    dock.load(files[0], "first")
    gc.collect()
    before, started = resident_bytes(), time.perf_counter()
    for number in range(count):
        dock.load(files[number % 10], f"n{number}")
    seconds = time.perf_counter() - started
    gc.collect()
    gained = resident_bytes() - before
    print(
        f"\n{count:,} resident adapters: {gained / 1e6:.1f} MB gained, {count * size / 1e6:.1f} MB of files, "
        f"ratio {gained / (count * size):.3f}; docked in {1e3 * seconds / count:.2f} ms each"
    )


def resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--residents", type=int, default=1000)
    arguments = parser.parse_args()
    print(machine())
    backbone = load_backbone("minilm", LoadOptions())
    assert isinstance(backbone, HuggingFaceBackbone)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = {**ours(backbone, folder), **theirs(backbone, folder)}
        times: dict[str, list[float]] = {step: [] for step in steps}
        for number in range(arguments.rounds + 3):
            for step, run in steps.items():
                started = time.perf_counter()
                run()
                if number > 2:
                    times[step].append(time.perf_counter() - started)
        print("\n| step | median ms | fastest |\n|---|---|---|")
        for step, taken in times.items():
            if not step.startswith("("):
                print(f"| {step} | {1e3 * statistics.median(taken):.2f} | {1e3 * min(taken):.2f} |")
        residents(backbone, folder, arguments.residents)


if __name__ == "__main__":
    main()
