"""Wirings that other libraries' adapters need: alone or among others in a batch, an adapter does the same."""

from typing import Any

import pytest
import torch
from architectures import tiny_backbone, tiny_language_model
from builders import build_adapter
from models import tiny_tokenizer

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.generation import GenerationOptions, generate_ids
from adaptdock.errors import BackboneError, UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, Batch, Feature

LABELS = ("a", "b", "c")
TASKS: dict[str, dict[str, Any]] = {
    "ner": {"hidden_layers": ["tanh"]},
    "pos": {},
    "classification": {"pooling": "first", "hidden_layers": ["tanh", "gelu"]},
    "topic": {"pooling": "last"},
}
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"rank": 3}),
    ("lora", {"rank": 2, "bias": True, "roles": ("query", "ffn_up"), "layers": "1"}),
    ("dora", {"rank": 3, "bias": True}),
    ("ia3", {"input_roles": ("attention_output",)}),
    ("bottleneck", {"width": 5, "stream": True, "placement": "pfeiffer"}),
    ("bottleneck", {"width": 3, "stream": True, "parallel": True}),
    ("bottleneck", {"width": 3, "stream": True, "onto": "sum", "activation": "leaky_relu"}),
    ("bottleneck", {"width": 3, "roles": ("attention_output",)}),
    ("prefix", {"length": 4, "gate": False, "move": True}),
    ("prefix", {"length": 2, "gate": False}),
    ("prompt", {"length": 3}),
]


def adapters(backbone: Backbone, more: list[tuple[str, dict[str, Any]]]) -> list[AdapterFile]:
    found = []
    named = [port.name for port in backbone.ports.select("linear", ("query", "ffn_up"))][:3]
    for number, (method, options) in enumerate([*METHODS, *more, ("lora", {"rank": 2, "roles": tuple(named)})]):
        task = list(TASKS)[number % len(TASKS)]
        found.append(headed(backbone, method, options, task, number))
    return found


def headed(backbone: Backbone, method: str, options: dict[str, Any], task: str, seed: int) -> AdapterFile:
    from adaptdock.engine.core.assembly import assemble, make_task

    made = build_adapter(backbone, method, options, LABELS, f"{method}{seed}", task, seed)
    told = {**made.card.task.options, **TASKS[task]}
    assembly = assemble(backbone, made.card.methods, make_task(task, told))
    generator = torch.Generator().manual_seed(seed)
    tensors = assembly.start(generator)
    tensors = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    entry = made.card.task.model_copy(update={"options": told})
    return AdapterFile(made.card.model_copy(update={"task": entry}), tensors)


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("bert", [("bottleneck", {"width": 3, "stream": True, "onto": "norm"})]),
        (
            "gpt2",
            [("prefix", {"length": 3, "gate": False, "top_left": True}), ("prefix", {"length": 5, "top_left": True})],
        ),
        ("llama", [("prefix", {"length": 3, "gate": False, "top_left": True})]),
        ("roberta", []),
    ],
)
def test_a_row_in_a_mixed_batch_equals_that_row_alone(
    architecture: str, more: list[tuple[str, dict[str, Any]]]
) -> None:
    backbone = tiny_backbone(architecture)
    dock = Dock(backbone)
    names = [dock.dock(adapter) for adapter in adapters(backbone, more)]
    generator = torch.Generator().manual_seed(0)
    features = []
    for number in range(len(names)):
        ids = torch.randint(5, 90, (4 + number % 5,), generator=generator).tolist()
        features.append(Feature({"input_ids": ids, "attention_mask": [1] * len(ids)}))
    with dock.boarding(names) as rows:
        together = dock.run(rows, features)
    for name, feature, found in zip(names, features, together, strict=True):
        with dock.boarding([name]) as rows:
            (alone,) = dock.run(rows, [feature])
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    dock.close()


def test_an_untrained_adapter_of_each_wiring_leaves_the_states_as_they_were() -> None:
    backbone = tiny_backbone("bert")
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    bare = backbone.forward(Batch(inputs))
    for method, options in [("bottleneck", {"stream": True}), ("lora", {"bias": True}), ("dora", {"bias": True})]:
        dock = Dock(backbone)
        name = dock.dock(build_adapter(backbone, method, options, trained=False))
        with dock.boarding([name]) as rows:
            torch.testing.assert_close(dock.hidden(rows, inputs), bare, atol=1e-6, rtol=0)
        dock.close()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_what_is_written_behind_a_prefix_that_moves_is_what_its_logits_say(architecture: str) -> None:
    model = tiny_language_model(architecture)
    backbone = HuggingFaceBackbone(architecture, model, tiny_tokenizer(), f"blocks1:{architecture}")
    dock = Dock(backbone)
    adapter = build_adapter(backbone, "prefix", {"length": 4, "gate": False, "move": True}, name="moved")
    name = dock.dock(adapter)
    ids = torch.tensor([[5, 6, 7, 8, 9], [0, 0, 11, 12, 13]])
    mask = (ids != 0).long()
    options = GenerationOptions(max_new_tokens=4)
    with dock.boarding([name, None]) as rows:
        written = generate_ids(dock, rows, {"input_ids": ids, "attention_mask": mask}, options)
    for row, who in enumerate((name, None)):
        text = ids[row][mask[row].bool()].tolist()
        for token in written[row].tolist():
            given = torch.tensor([text])
            with dock.boarding([who]) as rows:
                states = dock.hidden(rows, {"input_ids": given, "attention_mask": torch.ones_like(given)})
            assert backbone.vocabulary_logits(states)[0, -1].argmax() == token
            text.append(token)


def test_a_sum_is_not_read_where_it_is_not_known() -> None:
    backbone = tiny_backbone("gpt_neox")  # attention and feed-forward are added at once
    with pytest.raises(BackboneError, match=r"the residual connection of .* is not known"):
        build_adapter(backbone, "bottleneck", {"stream": True})


def test_what_is_added_to_is_for_adapters_that_read_the_sum() -> None:
    with pytest.raises(UsageError, match="onto is for adapters that read the sum"):
        build_adapter(tiny_backbone("bert"), "bottleneck", {"onto": "sum"})
