"""Packing: short examples of a language model's training share a window, and none sees another.

The positions of a packed window begin anew with each example; a backbone lets each see its own alone. A window is
filled with the longest example that still fits (first fit, longest first).
"""

from collections.abc import Sequence

import torch

from adaptdock.engine.core.assembly import Assembly
from adaptdock.engine.core.batches import collate, length
from adaptdock.errors import BackboneError, UsageError
from adaptdock.plugins.contracts import Backbone, Batch, Feature

NEAR = {torch.float32: 1e-3}
HALF_NEAR = 0.05
"""How far states of a packed example may be from those of the same alone, as a share of their length."""


def pack(backbone: Backbone, assembly: Assembly, features: Sequence[Feature], room: int) -> list[Feature]:
    """Return windows of at most ``room`` tokens that hold all examples.

    Raises :class:`UsageError` for a task or a method that cannot be packed, and :class:`BackboneError` where
    examples in one window would see each other.
    """
    if assembly.head.over != "vocabulary" or assembly.head.row_inputs or not backbone.causal:
        raise UsageError("--packing is for tasks that learn each next token of a decoder (clm, generation and its kin)")
    if assembly.positions:
        raise UsageError("--packing: the method puts positions in front of each text, and a window has one front")
    bins: list[list[Feature]] = []
    free: list[int] = []
    for feature in sorted(features, key=lambda found: -length(found)):
        place = next((n for n, left in enumerate(free) if left >= length(feature)), len(bins))
        if place == len(bins):
            bins.append([])
            free.append(room)
        bins[place].append(feature)
        free[place] -= length(feature)
    shared = next((own for own in bins if len(own) > 1), None)
    if shared is not None:
        _check(backbone, shared)
    return [_joined(own) for own in bins]


def begun(window: Feature) -> int:
    """Return how many examples share a window."""
    return window.inputs["position_ids"].count(0)


def _joined(features: Sequence[Feature]) -> Feature:
    inputs = {name: [token for own in features for token in own.inputs[name]] for name in features[0].inputs}
    inputs["position_ids"] = [place for own in features for place in range(length(own))]
    labels = [label for own in features for label in own.labels]
    return Feature(inputs, labels, cut=sum(own.cut for own in features))


@torch.no_grad()
def _check(backbone: Backbone, features: Sequence[Feature]) -> None:
    """Raise :class:`BackboneError` unless each of these has the same states in one window as alone."""
    together = backbone.forward(Batch(collate(backbone, [_joined(features)])))[0].float()
    alone = torch.cat([backbone.forward(Batch(collate(backbone, [own])))[0] for own in features]).float()
    apart = (together - alone).norm(dim=-1) / alone.norm(dim=-1).clamp(min=1e-6)
    if apart.max() > NEAR.get(backbone.dtype, HALF_NEAR):
        raise BackboneError(
            f"examples that share a window would see each other in the architecture {backbone.architecture!r}: leave "
            f"--packing off"
        )
