"""Builders of adapters for tests: random weights, no training."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone


def build_adapter(
    backbone: Backbone,
    method: str,
    options: Mapping[str, Any] | None = None,
    labels: Sequence[str] = ("LOC", "PER"),
    name: str | None = None,
    task: str = "ner",
    seed: int = 0,
    trained: bool = True,
) -> AdapterFile:
    """Return an adapter for a backbone; ``trained`` adds noise to each weight, so that it acts."""
    methods = method_entries(method, options or {})
    fitted = make_task(task, {"labels": tuple(labels)})
    assembly = assemble(backbone, methods, fitted)
    generator = torch.Generator().manual_seed(seed)
    tensors = assembly.start(generator)
    if trained:
        tensors = {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in tensors.items()}
    card = Card(
        name=name or method,
        task=entry("task", task, fitted.options),
        methods=methods,
        backbone=BackboneEntry(id=backbone.id, architecture=backbone.architecture, fingerprint=backbone.fingerprint),
        preprocessing=Preprocessing(max_length=backbone.max_length),
    )
    return AdapterFile(card, tensors)
