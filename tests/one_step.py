"""The least of training: is there a loss, are the gradients where they belong, do the weights move?"""

import torch
from torch import Tensor

from adaptdock.engine.core.batches import collate, collate_labels
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Feature


def train(dock: Dock, start: AdapterFile, given: list[Feature]) -> dict[str, Tensor]:
    """Take two steps at a high rate and return the weights; every one of them must have moved, and nothing else."""
    mine = dock.backbone
    assembly = dock._assembled(start)
    model = Trainable(mine, dock.ports, [[TaskStart(assembly)]]).train()
    (before,) = model.tensors()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05)
    dock.ports.acquire(assembly.sites)
    try:
        for _ in range(2):  # the second half of a LoRA has no gradient while the first one is zero
            optimiser.zero_grad()
            loss = model(labels=[collate_labels(given, mine.device)], **collate(mine, given))["loss"]
            loss.backward()
            assert torch.isfinite(loss)
            assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
            optimiser.step()
    finally:
        dock.ports.release(assembly.sites)
    (after,) = model.tensors()
    assert all(not weight.requires_grad for weight in mine.model.parameters())
    assert all(weight.grad is None for weight in mine.model.parameters())
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    return after
