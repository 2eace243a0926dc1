"""Packing: short examples of a language model's training share a window, without attention to each other.

The positions of a packed window restart with each example; from them the attention of a backbone separates the
examples. Each example goes into the first window with enough space, longest first (first-fit decreasing).
"""

from collections.abc import Sequence

import torch

from adaptdock.engine.core.assembly import Assembly
from adaptdock.engine.core.batches import collate, length
from adaptdock.errors import BackboneError, UsageError
from adaptdock.plugins.contracts import Backbone, Batch, Feature

NEAR = {torch.float32: 1e-3}
HALF_NEAR = 0.05
"""Largest distance between the states of an example packed and alone, as a share of their norm."""


def pack(backbone: Backbone, assembly: Assembly, features: Sequence[Feature], room: int) -> list[Feature]:
    """Return windows of at most ``room`` tokens that hold all examples.

    Raises :class:`UsageError` for a task or a method that cannot be packed, and :class:`BackboneError` if examples
    in one window would attend to each other.
    """
    if assembly.head.over != "vocabulary" or assembly.head.row_inputs or not backbone.causal:
        raise UsageError("--packing is for tasks that learn each next token of a decoder (clm, generation, ...)")
    if assembly.positions:
        raise UsageError("--packing: the method puts positions in front of each text, and a window has one front")
    bins: list[list[Feature]] = []
    free: list[int] = []
    for feature in sorted(features, key=lambda example: -length(example)):
        place = next((n for n, space in enumerate(free) if space >= length(feature)), len(bins))
        if place == len(bins):
            bins.append([])
            free.append(room)
        bins[place].append(feature)
        free[place] -= length(feature)
    shared = next((examples for examples in bins if len(examples) > 1), None)
    if shared is not None:
        _check(backbone, shared)
    return [_joined(examples) for examples in bins]


def begun(window: Feature) -> int:
    """Return the number of examples in a window."""
    return window.inputs["position_ids"].count(0)


def _joined(features: Sequence[Feature]) -> Feature:
    inputs = {name: [token for example in features for token in example.inputs[name]] for name in features[0].inputs}
    inputs["position_ids"] = [place for example in features for place in range(length(example))]
    labels = [label for example in features for label in example.labels]
    return Feature(inputs, labels, cut=sum(example.cut for example in features))


@torch.no_grad()
def _check(backbone: Backbone, features: Sequence[Feature]) -> None:
    """Raise :class:`BackboneError` unless each example has the same states in one window as alone."""
    together = backbone.forward(Batch(collate(backbone, [_joined(features)])))[0].float()
    alone = torch.cat([backbone.forward(Batch(collate(backbone, [example])))[0] for example in features]).float()
    distance = (together - alone).norm(dim=-1) / alone.norm(dim=-1).clamp(min=1e-6)
    if distance.max() > NEAR.get(backbone.dtype, HALF_NEAR):
        raise BackboneError(
            f"examples that share a window would see each other in the architecture {backbone.architecture!r}: leave "
            f"--packing off"
        )
