"""The project on simulated GPUs, in a process of its own: ``checks.py RESULTS LAYOUT:ARCHITECTURE...``.

Each check computes the same on the CPU and on the simulated devices. RESULTS is a JSON file, a list of
``{"check", "error", "difference", "waits"}``: the message of an exception (empty without one), the largest
difference from the CPU's values, and in a check of waits how often the host waited for a device.
"""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # the simulation is that of one thread
warnings.simplefilter("ignore")

from gpu import simulated  # isort: split

# after it, torch and all that imports it
import torch
from gpu.comparisons import (
    ENCODER_HEADS,
    FEATURES,
    HEADS,
    READ_WEIGHTS,
    apart,
    gradients,
    logits,
    of_every_method,
    predictions,
    same,
    stepped,
    training,
    with_task,
    write_checkpoint,
    written,
)
from transformers import modeling_utils

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.planning.hyperparameters import fast_precision
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, LoadOptions

LAYOUTS: dict[str, dict[str, Any]] = {
    "first": {"device": "cuda"},
    "second": {"device": "cuda:1"},
    "two": {"device_map": "balanced"},
    "offloaded": {"device_map": "auto"},
}
"""Where a backbone is loaded: on a GPU, on the other one, on both, or partly in host memory."""
EXPECTED = {
    "first": {"cuda:0"},
    "second": {"cuda:1"},
    "two": {"cuda:0", "cuda:1"},
    "offloaded": {"meta"},
}
"""The devices of the weights in each layout; some of those that are offloaded wait in host memory, and say meta."""
FREE = {"bert": 60_000, "llama": 70_000, "gpt2": 90_000, "t5": 90_000}
"""Bytes of a device that hold some of a tiny model's layers, but not all."""
results: list[dict[str, Any]] = []


def check(name: str, compare: Callable[[], float]) -> None:
    """Keep what a comparison has found; it goes on after an error."""
    error, difference = "", 0.0
    try:
        difference = compare()
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
        if os.environ.get("TRACEBACKS"):
            raise
    results.append({"check": name, "error": error, "difference": difference, "waits": 0})


def count_waits(name: str, run: Callable[[], Any]) -> None:
    """Keep how often the host waits in a run; the first one may do more, and does not count."""
    run()
    with simulated.counting() as waits:
        run()
    results.append({"check": name, "error": "", "difference": 0.0, "waits": waits.total()})


@contextmanager
def little_memory(bytes_free: int) -> Iterator[None]:
    """Let each device have so little memory that a device map puts part of a model aside."""
    warm_up, free = modeling_utils.caching_allocator_warmup, simulated.free_memory
    modeling_utils.caching_allocator_warmup, simulated.free_memory = lambda *_, **__: None, bytes_free
    try:
        yield
    finally:
        modeling_utils.caching_allocator_warmup, simulated.free_memory = warm_up, free


# --------------------------------------------------------------------------------------------- checks


def compare(layout: str, architecture: str, folder: Path) -> None:
    """Check a tiny model of an architecture with every method, loaded in a layout."""
    write_checkpoint(folder, architecture)
    host = load_backbone(str(folder), LoadOptions(device="cpu"))
    where = f"{architecture} {layout}"
    loaded: list[Backbone] = []

    def load() -> float:
        loaded.append(load_backbone(str(folder), LoadOptions(dtype="float32", **LAYOUTS[layout])))
        devices = {str(parameter.device) for parameter in loaded[0].model.parameters()}
        return same(EXPECTED[layout], devices if layout != "offloaded" else devices & {"meta"})

    with little_memory(FREE[architecture]) if layout == "offloaded" else nullcontext():
        check(f"{where}: load", load)
    if not loaded:
        return
    if host.generator is not None:
        compare_writing(where, host, loaded[0])
    compare_methods(where, host, loaded[0], folder)
    compare_tasks(where, host, loaded[0])


def compare_methods(where: str, host: Backbone, backbone: Backbone, folder: Path) -> None:
    """Check logits and gradients of each method, and the logits of all methods in one batch."""
    adapters = of_every_method(host, folder)

    def compare_logits(rows: list[str]) -> float:
        return apart(logits(host, adapters, rows), logits(backbone, adapters, rows))

    def compare_gradients(adapter: AdapterFile) -> float:
        return apart(gradients(host, adapter, "cpu"), gradients(backbone, adapter, "cuda:0"))

    for name, adapter in adapters.items():
        check(f"{where}: logits {name}", partial(compare_logits, [name] * 4))
        check(f"{where}: training {name}", partial(compare_gradients, adapter))
    aside = any(parameter.device.type == "meta" for parameter in backbone.model.parameters())
    rows = [name for name in adapters if not (aside and name in READ_WEIGHTS)]
    check(f"{where}: logits mixed", partial(compare_logits, rows))
    dock = Dock(backbone)
    dock.dock(adapters["lora"], "lora")
    with dock.boarding(["lora"] * 4) as aboard:
        count_waits(f"{where}: waits of a pass", lambda: dock.run(aboard, FEATURES))
    with training(backbone, adapters["lora"], str(backbone.device)) as (_, step):
        count_waits(f"{where}: waits of a training step", step)


def compare_tasks(where: str, host: Backbone, backbone: Backbone) -> None:
    """Check what heads of several kinds predict."""
    for task, (options, given) in (HEADS | ({} if host.generator else ENCODER_HEADS)).items():
        adapter = with_task(host, task, options)
        check(
            f"{where}: predict {task}",
            lambda adapter=adapter, given=given: same(
                predictions(host, adapter, given), predictions(backbone, adapter, given)
            ),
        )


def compare_writing(where: str, host: Backbone, backbone: Backbone) -> None:
    """Check what is written in steps and by transformers' searches, and the gradients of a task that writes."""
    adapters = {method: with_task(host, "generation", {}, method) for method in ("lora", "prefix", "prompt", "ia3")}
    drawn = {"do_sample": True, "seed": 3, "top_k": 20, "top_p": 0.9}

    def compare_texts(write: Callable[..., Any], options: dict[str, Any]) -> float:
        return same(write(host, adapters, **options), write(backbone, adapters, **options))

    if host.writes_in_steps:
        for label, options in (("greedy", {}), ("drawn", drawn), ("penalised", {"repetition_penalty": 1.3})):
            check(f"{where}: steps {label}", partial(compare_texts, stepped, options))
    for label, options in (("greedy", {}), ("beams", {"num_beams": 2}), ("drawn", drawn)):
        check(f"{where}: generate {label}", partial(compare_texts, written, options))
    adapter = adapters["lora"]
    check(
        f"{where}: training generation",
        lambda: apart(gradients(host, adapter, "cpu"), gradients(backbone, adapter, "cuda:0")),
    )


def compare_precisions() -> None:
    """Check the precision that is chosen for devices of several compute capabilities."""
    for capability, expected in (((7, 5), "fp32"), ((8, 0), "bf16")):
        simulated.capability = capability
        check(f"precision {capability}", partial(same, expected, fast_precision("cuda:1")))


if __name__ == "__main__":
    simulated.install()
    compare_precisions()
    torch.set_num_threads(1)
    for case in sys.argv[2:]:
        layout, architecture = case.split(":")
        with tempfile.TemporaryDirectory() as temporary:
            compare(layout, architecture, Path(temporary))
    Path(sys.argv[1]).write_text(json.dumps(results))
