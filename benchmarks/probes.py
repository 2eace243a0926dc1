"""Golden probes: which faults injected into adapters they catch, false alarms, and the time that they take.

    python benchmarks/probes.py [--adapters 200] [--faulty 68] [--precisions float32,bfloat16,int8] [--backbone minilm]

Sound adapters have random weights, scaled so that the method changes the last hidden states by 2 to 50 %, as trained
adapters do, and random heads; methods and tasks take turns, and so do the precisions of the file. Their probes are
recorded in float32. Then each is docked in every precision, and the first of them with each fault too. A fault counts
if it changes the float32 logits of any of twelve texts by more than 0.01 % of their spread: half of a rotation that is
made orthonormal again is no fault.
"""

import argparse
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import machine
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.golden_probes import ask, recorded
from adaptdock.engine.training.planning.probe_inputs import probe_inputs
from adaptdock.errors import AdaptError, BackboneError, ProbeError
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, LoadOptions, Ports

METHODS: Sequence[tuple[str, dict[str, Any]]] = (
    ("lora", {}),
    ("lora", {"rank": 4, "roles": ["all"], "bias": True}),
    ("dora", {}),
    ("ia3", {}),
    ("bottleneck", {}),
    ("prefix", {"length": 8}),
    ("prompt", {"length": 8}),
    ("mam", {"length": 8}),
    ("adalora", {}),
    ("bitfit", {}),
    ("compacter", {}),
    ("loha", {"rank": 4}),
    ("lokr", {}),
    ("loreft", {}),
    ("norms", {}),
    ("embedding-lora", {"rank": 4}),
    ("features", {"mix": "layers"}),
)
TASKS: Mapping[str, dict[str, Any]] = {
    "ner": {"labels": ("LOC", "ORG", "PER")},
    "pos": {"labels": ("ADJ", "NOUN", "VERB", "X")},
    "topic": {"labels": ("art", "sport", "trade")},
    "sentiment": {"labels": ("bad", "good")},
    "pair": {"labels": ("no", "yes")},
    "qa": {},
    "regression": {},
    "embedding": {},
}
STORED = (torch.float16, torch.float16, torch.bfloat16, torch.float32)
LEAST_EFFECT = 1e-4
"""Least change of logits by a fault, as a share of their spread."""
LEAST, MOST = 0.02, 0.5
"""Relative change of the last hidden states by the method of a sound adapter."""
Fault = Callable[[AdapterFile, AdapterFile], AdapterFile]


@dataclass(frozen=True)
class Sound:
    """A sound adapter, and another of the same kind."""

    name: str
    adapter: AdapterFile
    second: AdapterFile
    inputs: Sequence[Any]


def main() -> None:
    """Make the adapters, and print a table of faults for every precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument("--faulty", type=int, default=68, help="adapters of these that are damaged in each way")
    parser.add_argument("--precisions", default="float32,bfloat16,int8")
    parser.add_argument("--backbone", default="minilm")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    started = time.monotonic()
    backbone = load_backbone(arguments.backbone, LoadOptions(device="cpu", dtype="float32"))
    adapters = list(sound_adapters(backbone, range(arguments.adapters)))
    print(f"{len(adapters)} adapters recorded in {time.monotonic() - started:.0f} s", flush=True)
    effective = effects(Dock(backbone), adapters[: arguments.faulty])
    print(f"effects of the faults known after {time.monotonic() - started:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as place:
        bases = dict(other_bases(backbone, Path(place)))
        for precision in arguments.precisions.split(","):
            measure(precision, arguments.backbone, bases, adapters, effective, arguments.faulty)


# ------------------------------------------------------------------------------------- sound adapters


def sound_adapters(backbone: Backbone, numbers: Iterable[int]) -> Iterator[Sound]:
    """Yield sound adapters with probes; methods, tasks and precisions of the file take turns."""
    dock = Dock(backbone)
    inputs = {
        task: probe_inputs(make_task(task, options), "sample", Source(), 0)  # type: ignore[arg-type]
        for task, options in TASKS.items()
    }
    for number in numbers:
        method, options = METHODS[number % len(METHODS)]
        task = list(TASKS)[(number // len(METHODS) + number) % len(TASKS)]
        dtype = STORED[number // 3 % len(STORED)]
        pair = [sound(dock, method, options, task, seed, dtype) for seed in (number, number + 10_000)]
        probed = [recorded(dock, adapter, inputs[task], "sample") for adapter in pair]
        if probed[0].card.probes is None:
            raise SystemExit(f"{method} {task} answers no probe")
        yield Sound(f"{method} {task}", probed[0], probed[1], inputs[task])


def sound(dock: Dock, method: str, options: Mapping[str, Any], task: str, seed: int, dtype: torch.dtype) -> AdapterFile:
    """Return an adapter whose method changes the last hidden states by a random share, with a random head."""
    backbone, generator = dock.backbone, torch.Generator().manual_seed(seed)
    fitted, entries = make_task(task, TASKS[task]), method_entries(method, options)
    assembly = assemble(backbone, entries, fitted)
    start = assembly.start(generator)
    noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in start.items()}
    card = Card(
        name=f"{method}-{task}-{seed}",
        task=entry("task", task, fitted.options),
        methods=entries,
        backbone=BackboneEntry(id=backbone.id, architecture=backbone.architecture, fingerprint=backbone.fingerprint),
        preprocessing=Preprocessing(max_length=128),
    )

    def of(scale: float) -> AdapterFile:
        tensors = {
            name: (tensor + (0.05 if name.startswith("head.") else scale) * noise[name]).to(dtype)
            for name, tensor in start.items()
        }
        return AdapterFile(card, tensors)

    share = LEAST * (MOST / LEAST) ** float(torch.rand(1, generator=generator))
    # the mix of layers acts even with equal weights, so its share cannot be chosen
    scale = 0.5 if method == "features" else 0.02
    for _ in range(0 if method == "features" else 12):
        change = changed_states(dock, of(scale))
        if not change or 0.75 < change / share < 1.33:
            break
        scale *= min(4.0, max(0.25, share / change))
    return of(scale)


TEXTS = ("Ada Lovelace met Charles Babbage in London .", "The train leaves at ten , says a newspaper .")


def changed_states(dock: Dock, adapter: AdapterFile) -> float:
    """Return the change of the last hidden states of two texts, relative to their size."""
    inputs = dock.backbone.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    batch = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    name = dock.dock(adapter, "tried")
    try:
        with dock.boarding([name, name]) as rows, dock.boarding([None, None]) as bare:
            after, before = dock.hidden(rows, batch), dock.hidden(bare, batch)
    finally:
        dock.unload(name)
    mask = batch["attention_mask"].bool()
    return float((after - before)[mask].norm() / before[mask].norm())


# ------------------------------------------------------------------------------------------- faults


def only(change: Callable[[Tensor], Tensor], head: bool) -> Fault:
    """Return a fault that changes the tensors of the head, or all others."""

    def broken(adapter: AdapterFile, second: AdapterFile) -> AdapterFile:
        tensors = {
            name: change(tensor) if name.startswith("head.") == head else tensor
            for name, tensor in adapter.tensors.items()
        }
        return AdapterFile(adapter.card, tensors)

    return broken


def one_zeroed(place: float) -> Fault:
    """Return a fault that zeroes one tensor, at this share of the list of tensors that are not zero."""

    def broken(adapter: AdapterFile, second: AdapterFile) -> AdapterFile:
        names = sorted(name for name, tensor in adapter.tensors.items() if tensor.any())
        name = names[int(place * len(names))]
        return AdapterFile(adapter.card, {**adapter.tensors, name: torch.zeros_like(adapter.tensors[name])})

    return broken


def permuted(adapter: AdapterFile, second: AdapterFile) -> AdapterFile:
    """Swap tensors of equal shape; where no two have the same shape, roll the numbers of each."""
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in adapter.tensors.items():
        if not name.startswith("head."):
            shapes.setdefault(tuple(tensor.shape), []).append(name)
    tensors = dict(adapter.tensors)
    for names in shapes.values():
        if len(names) > 1:
            tensors |= {
                name: adapter.tensors[source] for name, source in zip(names, names[1:] + names[:1], strict=True)
            }
        else:
            tensors[names[0]] = adapter.tensors[names[0]].flatten().roll(1).view(tensors[names[0]].shape)
    return AdapterFile(adapter.card, tensors)


def of_another(adapter: AdapterFile, second: AdapterFile) -> AdapterFile:
    """Give an adapter the tensors of another."""
    return AdapterFile(adapter.card, second.tensors)


def scale_dropped(adapter: AdapterFile, second: AdapterFile) -> AdapterFile:
    """Halve one tensor of each port, as where a scale of 2 is lost."""
    last = {name.rpartition(".")[0]: name for name in sorted(adapter.tensors) if not name.startswith("head.")}
    halved = {name: adapter.tensors[name] / 2 for name in last.values()}
    return AdapterFile(adapter.card, {**adapter.tensors, **halved})


def new_head(tensor: Tensor) -> Tensor:
    """Return numbers as a new head starts with."""
    return (0.02 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))).to(tensor.dtype)


FAULTS: Mapping[str, Fault] = {
    "all tensors of the method zeroed": only(torch.zeros_like, head=False),
    **{f"one tensor zeroed ({number + 1} of 5)": one_zeroed(number / 5) for number in range(5)},
    "tensors permuted": permuted,
    "tensors of another adapter": of_another,
    "scale dropped": scale_dropped,
    "head re-initialised": only(new_head, head=True),
    "fp16 overflow": only(lambda tensor: (tensor.float() * 1e7).to(torch.float16), head=False),
}


def other_bases(backbone: Backbone, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield checkpoints of the same shape: with new weights, and with one new layer."""
    source = backbone.files[0].parent
    for name, part in (("base swapped: all layers new", "encoder.layer."), ("base swapped: one layer new", "layer.2.")):
        place = folder / part.strip(".")
        shutil.copytree(source, place)
        weights = load_file(place / "model.safetensors")
        generator = torch.Generator().manual_seed(5)
        for key, tensor in weights.items():
            if part in key and tensor.ndim == 2:
                weights[key] = tensor.std() * torch.randn(tensor.shape, generator=generator)
        save_file(weights, place / "model.safetensors", {"format": "pt"})
        yield name, place


def confused(backbone: Backbone) -> Backbone:
    """Return a backbone whose ports for query and key lead to each other's module, as with a wrong table of names."""
    swapped = {"query": "key", "key": "query", "ffn_up": "ffn_up"}
    modules = {port.name: port.module for port in backbone.ports}
    ports = [
        replace(port, module=modules.get(port.name.replace(port.role, swapped.get(port.role, port.role)), port.module))
        for port in backbone.ports
    ]
    twin = copy(backbone)
    twin.ports = Ports(ports, backbone.architecture, backbone.ports.closed, backbone.ports._residuals)
    return twin


# ------------------------------------------------------------------------------------------ measuring


def load(name: str, precision: str) -> Backbone:
    """Load a backbone in a precision."""
    if precision in ("int8", "nf4"):
        return load_backbone(name, LoadOptions(device="cpu", quantize=precision))  # type: ignore[arg-type]
    return load_backbone(name, LoadOptions(device="cpu", dtype=precision))  # type: ignore[arg-type]


def effects(dock: Dock, adapters: Sequence[Sound]) -> dict[str, set[int]]:
    """Return for each fault the numbers of the adapters whose logits it changes."""
    effective: dict[str, set[int]] = {title: set() for title in FAULTS}
    for number, item in enumerate(adapters):
        before = logits(dock, item.adapter, item.inputs)
        assert before is not None
        for title, fault in FAULTS.items():
            after = logits(dock, fault(item.adapter, item.second), item.inputs)
            if after is None or not float((after - before).norm() / (before - before.mean()).norm()) < LEAST_EFFECT:
                effective[title].add(number)
    return effective


def logits(dock: Dock, adapter: AdapterFile, inputs: Sequence[Any]) -> Tensor | None:
    """Return all logits of an adapter for these inputs; None for an adapter that cannot be docked."""
    try:
        name = dock.dock(adapter, "tried")
    except AdaptError:
        return None
    try:
        return torch.cat([part.flatten() for parts in dock.logits(name, inputs) for part in parts])
    finally:
        dock.unload(name)


def fits(backbone: Backbone, adapter: AdapterFile) -> bool:
    """Return whether the method of an adapter can act on a backbone."""
    try:
        Dock(backbone).prepare(adapter)
    except BackboneError:
        return False
    return True


def measure(
    precision: str,
    name: str,
    bases: Mapping[str, Path],
    adapters: Sequence[Sound],
    effective: Mapping[str, Collection[int]],
    faulty: int,
) -> None:
    """Dock every adapter in a precision, sound and the first ``faulty`` with each fault, and print the shares."""
    backbone = load(name, precision)
    fitting = {number: item for number, item in enumerate(adapters) if fits(backbone, item.adapter)}
    if len(fitting) < len(adapters):
        methods = sorted(
            {item.name.split()[0] for item in adapters} - {item.name.split()[0] for item in fitting.values()}
        )
        print(
            f"\n{precision}: {len(adapters) - len(fitting)} adapters cannot act on this backbone: {', '.join(methods)}"
        )
    false_alarms(precision, backbone, list(fitting.values()))
    total = Counter[str]()
    for title, fault in FAULTS.items():
        items = [item for number, item in fitting.items() if number in effective[title]]
        broken = ((item.name, fault(item.adapter, item.second)) for item in items)
        total += report(title, lambda adapter: Dock(backbone).proved(adapter), broken)
    first = [item for number, item in fitting.items() if number < faulty]
    for title, place in bases.items():
        other = load(str(place), precision)
        forged = ((item.name, with_fingerprint(item.adapter, other)) for item in first)
        total += report(title, lambda adapter, other=other: Dock(other).proved(adapter), forged)
    share = total["refused"] / max(1, total["faults"])
    print(f"  all of these: {total['refused']} of {total['faults']} ({share:.2%})")
    twin = confused(backbone)
    acting = [(item.name, item.adapter) for item in first if acts_on_confused(item.adapter)]
    report("wrong code: query and key confused", lambda adapter: Dock(twin).proved(adapter), acting)


def false_alarms(precision: str, backbone: Backbone, adapters: Sequence[Sound]) -> None:
    """Dock sound adapters with and without probes, and print refusals, differences and times."""
    differences, alarms, with_probes, without = [], [], [], []
    for item in adapters:
        dock, begun = Dock(backbone), time.perf_counter()
        prepared = dock.prepare(item.adapter)
        without.append(time.perf_counter() - begun)
        (outcome,) = ask(dock, [prepared])
        assert outcome is not None
        differences.append(outcome.difference)
        begun = time.perf_counter()
        try:
            dock.proved(item.adapter)
        except ProbeError as error:
            alarms.append(f"{item.name}: {error}")
        with_probes.append(time.perf_counter() - begun)
    print(f"\n{precision}: {len(adapters)} sound adapters, {len(alarms)} refused")
    print(f"  difference of the logits: median {median(differences):.3%}, largest {max(differences):.3%}")
    print(
        f"  milliseconds: without probes {median(without) * 1e3:.1f}, with {median(with_probes) * 1e3:.1f}", flush=True
    )
    for alarm in alarms[:5]:
        print(f"  {alarm[:300]}")


def report(title: str, use: Callable[[AdapterFile], object], broken: Iterable[tuple[str, AdapterFile]]) -> Counter[str]:
    """Print how many of these adapters are refused, and the kinds of those that are not."""
    missed, count = [], 0
    for kind, adapter in broken:
        count += 1
        try:
            use(adapter)
        except AdaptError:
            continue
        missed.append(kind)
    refused = count - len(missed)
    print(f"  {title}: {refused} of {count} {', '.join(missed[:6])}", flush=True)
    return Counter(faults=count, refused=refused)


def with_fingerprint(adapter: AdapterFile, backbone: Backbone) -> AdapterFile:
    """Return an adapter that claims to be of a backbone."""
    forged = adapter.card.backbone.model_copy(update={"fingerprint": backbone.fingerprint})
    return AdapterFile(adapter.card.model_copy(update={"backbone": forged}), adapter.tensors)


def acts_on_confused(adapter: AdapterFile) -> bool:
    """Return whether an adapter has weights at a query or a key."""
    return any(".query." in name or ".key." in name for name in adapter.tensors)


if __name__ == "__main__":
    main()
