"""Adapters of every method, and what a backbone computes, trains and writes with them, wherever it is.

What two backbones give is compared by ``checks.py`` (simulated GPUs) and ``benchmarks/gpu_check.py`` (real ones).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from architectures import tiny_language_model, tiny_model
from builders import build_adapter
from models import tiny_tokenizer
from torch import Tensor
from writers import writing_tokenizer

from adaptdock.engine.core.assembly import assemble, entry, make_method, make_task, method_entries, put_together
from adaptdock.engine.core.batches import collate, collate_labels
from adaptdock.engine.inference.continuous_batching import Steps, Text
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.generation import GenerationOptions
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.engine.training.planning import pretrained
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Composite, Feature

OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 3, "roles": "all"},
    "dora": {"rank": 3},
    "prefix": {"length": 3, "roles": "all"},
    "prompt": {"length": 3},
    "bottleneck": {"reduction_factor": 4},
    "mam": {"length": 2, "reduction_factor": 4},
}
"""Options of methods whose own are too large for a tiny model."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bottleneck beside": ("bottleneck", {"reduction_factor": 4, "parallel": True}),
    "bottleneck in the stream": ("bottleneck", {"reduction_factor": 4, "stream": True}),
    "features of all layers": ("features", {"mix": "layers"}),
    "lora on top": ("lora", {"rank": 2, "layers": "1"}),
}
"""Methods with options that read or act in other places."""
TEXT = "ada met bob"
HEADS: dict[str, tuple[dict[str, Any], Any]] = {
    "classification": ({"labels": ("a", "b")}, TEXT),
    "embedding": ({}, TEXT),
    "qa": ({}, {"question": "who", "context": TEXT}),
    "regression": ({}, TEXT),
}
ENCODER_HEADS: dict[str, tuple[dict[str, Any], Any]] = {"mlm": ({}, TEXT)}
READ_WEIGHTS = ("dora", "boft", "bottleneck in the stream")
"""What reads frozen weights, which is refused where they wait in host memory."""
TOKENS = [[5, 9, 11, 14, 20, 6], [7, 8, 30], [12, 13, 14, 15], [9, 9]]
FEATURES = [Feature({"input_ids": ids, "attention_mask": [1] * len(ids)}, [0] * len(ids)) for ids in TOKENS]
PROMPTS = ["the cat", "a text about the sea", "the dog ran", "sum"]


def write_checkpoint(folder: Path, architecture: str) -> None:
    """Write a tiny random model with its tokenizer."""
    if architecture == "bert":
        model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    else:
        tokenizer = writing_tokenizer()
        changes = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        model = tiny_language_model(architecture, vocab_size=len(tokenizer), **changes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ------------------------------------------------------------------------------------------ adapters


def made_of_others(backbone: Backbone, method: str, folder: Path) -> AdapterFile:
    """Return an adapter of a method that is made of trained ones."""
    paths = [folder / f"member-{number}.safetensors" for number in range(2)]
    for number, path in enumerate(paths):
        options = {"placement": "pfeiffer", "reduction_factor": 4 + number}
        write_file(path, build_adapter(backbone, "bottleneck", options, name=path.stem, seed=number))
    adopted = pretrained.adopted(make_method(method, {"members": [str(path) for path in paths]}), backbone)
    task = make_task("ner", {"labels": ("LOC", "PER")})
    start = put_together(backbone, [(method, adopted)], task).start(torch.Generator().manual_seed(0))
    return AdapterFile(card(backbone, method, "ner", task.options, [entry("method", method, adopted.options)]), start)


def card(backbone: Backbone, name: str, task: str, options: Any, methods: Any) -> Card:
    known = BackboneEntry(id=backbone.id, architecture=backbone.architecture, fingerprint=backbone.fingerprint)
    reading = Preprocessing(max_length=backbone.max_length, vocabulary=backbone.vocabulary)
    return Card(name=name, task=entry("task", task, options), methods=methods, backbone=known, preprocessing=reading)


def with_task(backbone: Backbone, task: str, options: dict[str, Any], method: str = "lora", noise: float = 0.3) -> Any:
    """Return a random adapter for a task."""
    methods, fitted = method_entries(method, OPTIONS.get(method, {})), make_task(task, options)
    generator = torch.Generator().manual_seed(1)
    start = assemble(backbone, methods, fitted).start(generator)
    tensors = {name: part + noise * torch.randn(part.shape, generator=generator) for name, part in start.items()}
    return AdapterFile(card(backbone, method, task, fitted.options, methods), tensors)


def of_every_method(backbone: Backbone, folder: Path) -> dict[str, AdapterFile]:
    """Return a random adapter of every registered method, and of the variants that the backbone has ports for."""
    adapters = {}
    for method in registry.names("method"):
        composite = issubclass(registry.load("method", method), Composite)
        adapters[method] = (
            made_of_others(backbone, method, folder)
            if composite
            else build_adapter(backbone, method, OPTIONS.get(method, {}))
        )
    layered = any(port.kind == "layers" for port in backbone.ports)
    for name, (method, options) in VARIANTS.items():
        if layered or method != "features":
            adapters[name] = build_adapter(backbone, method, options)
    return adapters


# ---------------------------------------------------------------------------------------- comparisons


def apart(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> float:
    assert expected.keys() == actual.keys()
    return max((expected[name] - actual[name]).abs().max().item() for name in expected)


def logits(backbone: Backbone, adapters: Mapping[str, AdapterFile], rows: list[str]) -> dict[str, Tensor]:
    dock = Dock(backbone)
    for name in dict.fromkeys(rows):
        dock.dock(adapters[name], name)
    with dock.boarding(rows) as aboard:
        features = [FEATURES[number % len(FEATURES)] for number in range(len(rows))]
        found = dock.run(aboard, features)
    dock.close()
    return {str(number): row for number, row in enumerate(found)}


@contextmanager
def training(backbone: Backbone, adapter: AdapterFile, device: str) -> Iterator[tuple[Trainable, Callable[[], Tensor]]]:
    """Yield the weights of an adapter on the device of a Trainer, and a training step that returns the loss."""
    dock = Dock(backbone)
    assembly = dock._assembled(adapter)
    trainable = Trainable(backbone, dock.ports, [[TaskStart(assembly)]]).to(device)

    def step() -> Tensor:
        inputs = {name: tensor.to(device) for name, tensor in collate(backbone, FEATURES).items()}
        loss: Tensor = trainable([collate_labels(FEATURES, backbone.device).to(device)], **inputs)["loss"]
        loss.backward()
        return loss

    dock.ports.acquire(assembly.sites)
    yield trainable, step
    dock.ports.release(assembly.sites)


def gradients(backbone: Backbone, adapter: AdapterFile, device: str) -> dict[str, Tensor]:
    """Return loss and gradients of a training step."""
    with training(backbone, adapter, device) as (trainable, step):
        loss = step()
        named = {name: weight.grad for name, weight in trainable.named_parameters() if weight.grad is not None}
    return {name: tensor.detach().cpu() for name, tensor in {**named, "loss": loss}.items()}


def written(backbone: Backbone, adapters: Mapping[str, AdapterFile], **options: Any) -> list[str]:
    dock = Dock(backbone)
    for name, adapter in adapters.items():
        dock.dock(adapter, name)
    return dock.generate(list(adapters), PROMPTS[: len(adapters)], max_new_tokens=5, **options)


def stepped(backbone: Backbone, adapters: Mapping[str, AdapterFile], **options: Any) -> list[list[int]]:
    """Return what is written when texts join, are written and leave one after the other, from a fresh backbone on."""
    dock = Dock(backbone)
    for name, adapter in adapters.items():
        dock.dock(adapter, name)
    steps, read = Steps(dock), dock.backbone.tokenizer
    with dock.boarding(list(adapters)) as aboard:
        texts = []
        for more, (row, prompt) in enumerate(zip(aboard, PROMPTS, strict=False)):
            search = GenerationOptions(max_new_tokens=4 + more, **options)
            texts.append(Text(row, read(prompt)["input_ids"], search))
        for text in texts:
            steps.join([text])
            steps.step()
        while steps.texts:
            steps.step()
    return [text.tokens for text in texts]


def predictions(backbone: Backbone, adapter: AdapterFile, given: Any) -> Any:
    dock = Dock(backbone)
    dock.dock(adapter, "predicting")
    return rounded(dock.predict("predicting", [given] * 3))


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def same(expected: Any, actual: Any) -> float:
    if expected != actual:
        raise AssertionError(f"{actual} is not {expected}")
    return 0.0
