"""Full fine-tuning as a difference, against plain fine-tuning; frozen features."""

import copy
from pathlib import Path

import pytest
import torch
from builders import build_adapter

from adaptdock.adapters.full import Full
from adaptdock.engine.core.batches import collate, collate_labels
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.merging.merge import merged_maps
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.engine.training.planning.plan import plan
from adaptdock.plugins.contracts import Backbone


def test_its_gradients_are_those_of_the_weights_themselves(backbone: Backbone, dock: Dock, data: Path) -> None:
    """One step of gradient descent on D is the same step on W."""
    made = plan(backbone, "ner", "full", Source(data=str(data)), {"epochs": 1})
    trainable = Trainable(backbone, dock.ports, [[TaskStart(made.assembly)]])
    features = [feature for unit in made.units[:4] for feature in unit]
    batch = {**collate(backbone, features), "labels": [collate_labels(features, backbone.device)]}
    dock.ports.acquire(made.assembly.sites)
    trainable(**batch)["loss"].backward()
    dock.ports.release(made.assembly.sites)
    found = {f"{n}": p.grad for part in trainable.adapters[0] for n, p in zip(part.names, part.plain, strict=True)}

    plain = copy.deepcopy(backbone.model).requires_grad_(True)
    inputs = collate(backbone, features)
    head = {name: tensor.detach().unsqueeze(0) for name, tensor in trainable.answering[0].weights.items()}
    hidden = plain(**inputs)[0]
    logits = made.assembly.head.apply(head, hidden, inputs["attention_mask"])
    made.task.loss(logits, batch["labels"][0], None).backward()
    for site in made.assembly.sites.sites:
        module = plain.get_submodule(site.port.module)
        assert torch.allclose(found[f"{site.port.name}.weight_change"], module.weight.grad, atol=1e-6)
        assert torch.allclose(found[f"{site.port.name}.bias_change"], module.bias.grad, atol=1e-6)


def test_merged_it_is_a_model_with_other_weights(backbone: Backbone, dock: Dock) -> None:
    adapter = build_adapter(backbone, "full")
    maps = merged_maps(backbone, adapter, dock.prepare(adapter).assembly)
    for port, (weight, bias) in maps.items():
        change = adapter.tensors[f"{port.name}.weight_change"].float()
        assert torch.allclose(weight, backbone.weight(port) + change)
        assert torch.allclose(bias, backbone.bias(port) + adapter.tensors[f"{port.name}.bias_change"].float())


def test_rows_with_it_and_with_other_methods_share_a_batch(backbone: Backbone, dock: Dock) -> None:
    names = [dock.dock(build_adapter(backbone, name)) for name in ("full", "lora", "features")]
    texts = ["Ada sings in the rain", "nothing", "Oslo is far away"]
    mixed = dock.predict(names, texts)
    alone = [dock.predict(name, [text])[0] for name, text in zip(names, texts, strict=True)]
    for found, expected in zip(mixed, alone, strict=True):
        assert [spans(entity) for entity in found["entities"]] == [spans(entity) for entity in expected["entities"]]
        scores = [[entity["score"] for entity in answer["entities"]] for answer in (found, expected)]
        assert scores[0] == pytest.approx(scores[1], abs=2e-4)


def spans(entity: dict[str, object]) -> tuple[object, ...]:
    return entity["label"], entity["start"], entity["end"]


def test_roles_and_layers_limit_it(backbone: Backbone) -> None:
    method = Full(Full.Options(roles=("query",), layers="1"))
    assert [(site.port.role, site.port.layer) for site in method.sites(backbone.ports)] == [("query", 1)]


def test_frozen_features_train_the_head_alone(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    made = plan(backbone, "ner", "features", Source(data=str(data)), {"epochs": 2, "learning_rate": 1e-2})
    result = train_plan(made, tmp_path)
    assert set(result.adapter.tensors) == {"head.weight", "head.bias"}
    losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
    assert losses[-1] < losses[0]
