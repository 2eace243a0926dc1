"""Memory of a training: what a pass keeps for its backward pass, and what the device has free."""

from collections.abc import Sequence
from heapq import nlargest
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from adaptdock.engine.core.batches import collate, collate_labels, collate_row_inputs, length
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.engine.training.planning.plan import Plan

SHARE = 0.5
"""Share of the free memory that the activations of a pass may take."""


def activation_bytes(plan: Plan) -> int:
    """Return the bytes that the longest batch of a plan keeps for its backward pass, measured by one forward pass.

    Weights, which all members share or which are small, do not count.
    """
    dock = Dock(plan.backbone)
    trainable = Trainable(plan.backbone, dock.ports, [[TaskStart(plan.assembly)]])
    longest = nlargest(plan.options.batch_size, plan.units, key=lambda unit: max(map(length, unit)))
    features = [feature for unit in longest for feature in unit]
    weights = {tensor.untyped_storage().data_ptr() for tensor in _weights(plan, trainable)}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    row_inputs = [collate_row_inputs(plan.assembly.head, features, plan.backbone.device)]
    labels = [collate_labels(features, plan.backbone.device)]
    dock.ports.acquire(plan.assembly.sites)
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            trainable(labels=labels, row_inputs=row_inputs, **collate(plan.backbone, features))
    finally:
        dock.ports.release(plan.assembly.sites)
    return sum(sizes.values())


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that a device has free; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] if sizes and device.type == "cpu" else None


def members_that_fit(plan: Plan, most: int) -> tuple[int, str]:
    """Return the number of members like this plan that fit into a pass, at most ``most``, and the reason."""
    free, needed = free_bytes(plan.backbone.device), activation_bytes(plan)
    if free is None:
        return most, f"free memory unknown on {plan.backbone.device.type}"
    count = max(1, min(most, int(free * SHARE / max(1, needed))))
    return count, f"a batch keeps {_size(needed)} of {_size(free)} free memory"


def _weights(plan: Plan, trainable: Trainable) -> Sequence[Tensor]:
    model = plan.backbone.model
    return [*model.parameters(), *model.buffers(), *trainable.parameters()]


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
