"""Logits of docked adapters beside those of other libraries."""

import torch
from torch import Tensor

from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, Feature


def ours(backbone: Backbone, adapter: AdapterFile, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return the logits of each row of a batch of tokens."""
    dock = Dock(backbone)
    name = dock.dock(adapter)
    count = len(inputs["input_ids"])
    features = [Feature({key: tensor[row].tolist() for key, tensor in inputs.items()}) for row in range(count)]
    with dock.boarding([name] * count) as rows:
        found = dock.run(rows, features)
    dock.close()
    return found


def difference(found: list[Tensor], wanted: Tensor, inputs: dict[str, Tensor]) -> float:
    """Return the largest difference at tokens that are no padding; a prompt's own positions are left out."""
    worst = torch.zeros(())
    for row, own in enumerate(found):
        want, kept = wanted[row], inputs["attention_mask"][row].bool()
        if own.ndim == 2:
            want = want[-len(own) :]
            if len(own) == len(kept):
                own, want = own[kept], want[kept]
        worst = torch.maximum(worst, (own - want).abs().max())
    return float(worst)
