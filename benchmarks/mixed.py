"""One batch, many adapters: the time of a mixed batch over that of the bare backbone, beside PEFT, in one run.

    python benchmarks/mixed.py [--workloads minilm-8x16,...] [--adapters 1,4,8,32,128] [--rounds 15] [--fast int8]
    python benchmarks/mixed.py --workloads FOLDER:8x64,FOLDER:8x64:decode --device cuda --dtype bfloat16
    python benchmarks/mixed.py --workloads minilm-32x16 --every-method

Sides: the bare model as transformers runs it; this project with lora, bottleneck, prefix, and all three in
turn; PEFT LoRA with ``adapter_names``; PEFT LoRA switched with ``set_adapter`` group by group. Every round
runs every side once, in turn; a side's ratio is the median over the rounds of its time over the bare
model's in the same round. Rows walk through the adapters from round to round, so that with more adapters
than rows each round meets others. A workload that has no name is a backbone with rows and tokens; it reads the
tokens, or writes after them with ``:decode``. Operations are those that reach aten, views included, in one batch.
``--every-method`` instead compares a batch with an adapter of each installed method with batches of one method alone.
"""

import argparse
import itertools
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")

import torch
from machine import machine
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import logging as transformers_logging

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.generation import GenerationOptions, generate_ids
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Composite, LoadOptions

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 8, "roles": ["query", "value"]},
    "bottleneck": {},
    "prefix": {"length": 16},
}
DECODED = 16
"""Tokens that a decoding workload writes after the first one."""


@dataclass(frozen=True)
class Workload:
    """A backbone and the shape of a batch; ``decode`` writes tokens instead of reading them."""

    backbone: str
    rows: int
    tokens: int
    decode: bool = False


WORKLOADS = {
    "minilm-8x16": Workload("minilm", 8, 16),
    "minilm-32x16": Workload("minilm", 32, 16),
    "minilm-32x64": Workload("minilm", 32, 64),
    "smollm2-prefill-8x64": Workload("smollm2", 8, 64),
    "smollm2-decode-8": Workload("smollm2", 8, 16, decode=True),
}


def workload(name: str) -> Workload:
    """Return the workload of this name, or the one that is written ``BACKBONE:ROWSxTOKENS[:decode]``."""
    if name in WORKLOADS:
        return WORKLOADS[name]
    backbone, shape, *rest = name.split(":")
    rows, tokens = map(int, shape.split("x"))
    return Workload(backbone, rows, tokens, decode=rest == ["decode"])


class Counter(TorchDispatchMode):
    """Counts the operations that reach aten."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def adapter(backbone: HuggingFaceBackbone, method: str, seed: int) -> AdapterFile:
    """Return a tagger with random weights, stored in 16 bit as a trained one is."""
    methods = method_entries(method, METHODS.get(method, {}))
    task = make_task("ner", {"labels": ["LOC", "ORG", "PER"]})
    assembly = assemble(backbone, methods, task)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (tensor + 0.02 * torch.randn(tensor.shape, generator=generator)).half()
        for name, tensor in assembly.start(generator).items()
    }
    card = Card(
        name=f"{method}-{seed}",
        task=entry("task", "ner", task.options),
        methods=methods,
        backbone=BackboneEntry(id=backbone.id, architecture=backbone.architecture, fingerprint=backbone.fingerprint),
        preprocessing=Preprocessing(max_length=backbone.max_length),
    )
    return AdapterFile(card, tensors)


class Ours:
    """This project, with adapters of some methods in turn."""

    def __init__(self, backbone: HuggingFaceBackbone, methods: Sequence[str], count: int) -> None:
        self.dock = Dock(backbone)
        self.names = [
            self.dock.dock(adapter(backbone, methods[number % len(methods)], number)) for number in range(count)
        ]

    def run(self, work: Workload, inputs: dict[str, Tensor], chosen: Sequence[int]) -> None:
        with self.dock.boarding([self.names[number] for number in chosen]) as rows:
            if work.decode:
                generate_ids(self.dock, rows, inputs, GenerationOptions(max_new_tokens=DECODED + 1))
            else:
                self.dock.hidden(rows, inputs)

    def close(self) -> None:
        self.dock.close()


class Peft:
    """PEFT LoRA on a copy of the model, mixed in one batch or switched group by group."""

    def __init__(self, backbone: HuggingFaceBackbone, count: int, switched: bool, decode: bool) -> None:
        from copy import deepcopy

        from peft import LoraConfig, get_peft_model

        targets = ["query", "value"] if backbone.architecture == "bert" else ["q_proj", "v_proj"]
        config = LoraConfig(r=8, lora_alpha=16, target_modules=targets, init_lora_weights=False)
        self.names = [f"a{number}" for number in range(count)]
        self.model = get_peft_model(deepcopy(backbone.generator if decode else backbone.model), config, self.names[0])
        for name in self.names[1:]:
            self.model.add_adapter(name, config)
        self.model.eval()
        self.switched = switched

    @torch.inference_mode()
    def run(self, work: Workload, inputs: dict[str, Tensor], chosen: Sequence[int]) -> None:
        names = [self.names[number] for number in chosen]
        if not self.switched:
            self._call(work, inputs, adapter_names=names)
            return
        for name in dict.fromkeys(names):
            places = [row for row, other in enumerate(names) if other == name]
            self.model.set_adapter(name)
            self._call(work, {key: tensor[places] for key, tensor in inputs.items()})

    def _call(self, work: Workload, inputs: dict[str, Tensor], **extra: Any) -> None:
        if work.decode:
            write(self.model, inputs, **extra)
        else:
            self.model(**inputs, use_cache=False, **extra)


def write(model: Any, inputs: dict[str, Tensor], **extra: Any) -> None:
    """Write the tokens of a decoding workload."""
    model.generate(
        **inputs, max_new_tokens=DECODED + 1, do_sample=False, temperature=None, top_p=None, top_k=None, **extra
    )


def bare(backbone: HuggingFaceBackbone) -> Callable[[Workload, dict[str, Tensor], Sequence[int]], None]:
    """Return the bare model as transformers runs it."""

    @torch.inference_mode()
    def run(work: Workload, inputs: dict[str, Tensor], _: Sequence[int]) -> None:
        if work.decode:
            write(backbone.generator, inputs)
        else:
            backbone.model(**inputs, use_cache=False)

    return run


def wait(device: torch.device) -> None:
    """Wait for what a GPU was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    work: Workload, sides: dict[str, Any], adapters: int, rounds: int, device: torch.device
) -> dict[str, tuple[float, int, float]]:
    """Return, for each side, the median ratio to the bare model, operations in a batch, and median seconds."""
    torch.manual_seed(0)
    ids = torch.randint(100, 20_000, (work.rows, work.tokens)).to(device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    walk = itertools.count(0, work.rows)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 2):
        first = next(walk)
        chosen = [(first + row) % adapters for row in range(work.rows)]
        for side, run in sides.items():
            started = time.perf_counter()
            run(work, inputs, chosen)
            wait(device)
            if number > 1:  # two rounds to warm up
                times[side].append(time.perf_counter() - started)
    found = {}
    for side, run in sides.items():
        with Counter() as counter:
            run(work, inputs, [row % adapters for row in range(work.rows)])
        ratio = statistics.median(one / base for one, base in zip(times[side], times["bare"], strict=True))
        found[side] = (ratio, counter.count, statistics.median(times[side]))
    return found


def compare(name: str, adapters: Sequence[int], rounds: int, backbone: HuggingFaceBackbone) -> None:
    """Print a workload's table."""
    work = workload(name)
    print(f"\n**{name}**\n")
    print("| adapters | side | over bare | operations | ms |\n|---|---|---|---|---|")
    for count in adapters:
        ours = {side: Ours(backbone, [side], count) for side in METHODS} | {
            "all three": Ours(backbone, [*METHODS], count)
        }
        sides: dict[str, Any] = {"bare": bare(backbone)} | {side: made.run for side, made in ours.items()}
        sides["PEFT adapter_names"] = Peft(backbone, count, switched=False, decode=work.decode).run
        sides["PEFT set_adapter"] = Peft(backbone, count, switched=True, decode=work.decode).run
        for side, (ratio, operations, seconds) in measure(work, sides, count, rounds, backbone.device).items():
            print(f"| {count} | {side} | {ratio:.2f} | {operations:,} | {1e3 * seconds:.1f} |", flush=True)
        for made in ours.values():
            made.close()


def compare_every_method(name: str, rounds: int, backbone: HuggingFaceBackbone) -> None:
    """Print the table of a workload whose rows have an adapter of each method in turn, and of each method alone."""
    work = workload(name)
    loaded = registry.usable("method")
    methods = sorted(plugin.name for plugin, kind in loaded if not issubclass(kind, Composite))
    print(f"\n**{name}**, {len(methods)} methods\n\n| side | over bare | operations | ms |\n|---|---|---|---|")
    for side, mixed in {"one adapter of each method": methods, **{method: [method] for method in methods}}.items():
        ours = Ours(backbone, mixed, len(mixed))
        measured = measure(work, {"bare": bare(backbone), side: ours.run}, len(mixed), rounds, backbone.device)
        for label in ("bare", side) if len(mixed) > 1 else (side,):
            ratio, operations, seconds = measured[label]
            print(f"| {label} | {ratio:.2f} | {operations:,} | {1e3 * seconds:.1f} |", flush=True)
        ours.close()


def fast(mode: str, rounds: int) -> None:
    """Print the time of mixed batches in a faster precision over the bare float32 backbone's, and the F1 lost."""
    options = {"quantize": "int8"} if mode == "int8" else {"dtype": "bfloat16"}
    exact, quick = load_backbone("minilm", LoadOptions()), load_backbone("minilm", LoadOptions(**options))
    print(f"\n**{mode} beside the bare float32 backbone**, 32 adapters of each method\n")
    print("| batch | side | over bare float32 | ms |\n|---|---|---|---|")
    for name in ("minilm-8x16", "minilm-32x16", "minilm-32x64"):
        work = WORKLOADS[name]
        sides: dict[str, Any] = {"bare": bare(exact), f"bare {mode}": bare(quick)}
        sides |= {side: Ours(quick, [side], 32).run for side in METHODS}
        for side, (ratio, _, seconds) in measure(work, sides, 32, rounds, quick.device).items():
            print(f"| {name} | {side} | {ratio:.2f} | {1e3 * seconds:.1f} |", flush=True)
    accuracy(exact, quick, mode)


def accuracy(exact: HuggingFaceBackbone, quick: HuggingFaceBackbone, mode: str) -> None:
    """Train taggers on the sample data in float32 and print their test F1 there and in the faster precision."""
    import tempfile

    from adaptdock.engine.data.sources import Source, load_splits
    from adaptdock.engine.evaluation.measurement import evaluate
    from adaptdock.engine.training.train import train
    from adaptdock.tasks.ner import NER

    records = load_splits(Source(), NER)[0]["test"]
    print(f"\n| trained on the sample data | F1 float32 | F1 {mode} | lost |\n|---|---|---|---|")
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            made = train("ner", method, exact, folder=folder, epochs=8).adapter
        one, other = (evaluate(Dock(backbone), made, records).metrics["f1"] for backbone in (exact, quick))
        print(f"| {method} | {one:.2f} | {other:.2f} | {one - other:+.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--adapters", default="1,4,8,32,128")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--every-method", action="store_true", help="compare a mix of all methods with each alone")
    parser.add_argument("--fast", choices=["bf16", "int8"], help="measure this precision beside float32 as well")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    print(machine())
    counts = [int(count) for count in arguments.adapters.split(",")]
    loaded: dict[str, HuggingFaceBackbone] = {}
    for name in filter(None, arguments.workloads.split(",")):
        source = workload(name).backbone
        if source not in loaded:
            options = LoadOptions(device=arguments.device, dtype=arguments.dtype)
            loaded[source] = load_backbone(source, options)  # type: ignore[assignment]
        if arguments.every_method:
            compare_every_method(name, arguments.rounds, loaded[source])
            continue
        compare(name, counts, arguments.rounds, loaded[source])
    if arguments.fast:
        fast(arguments.fast, arguments.rounds)


if __name__ == "__main__":
    main()
