"""Gates computed from a text, which weaken or strengthen an update (UniPELT; Mao et al. 2022, arXiv:2110.07577).

``g = mean_t sigmoid(w x_t + c)`` over the positions t of a text, without its padding.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from adaptdock.plugins.forward_pass import ForwardPass
from adaptdock.plugins.methods import Parameter
from adaptdock.plugins.toolkit.batched_linear import linear

WEIGHT, BIAS = "gate_weight", "gate_bias"
STD = 0.02
"""Standard deviation of the initial weights, as in AdapterHub."""


def declared(count: int, width: int) -> dict[str, Parameter]:
    """Declare w (count, width), normal at the start, and c (count), zero."""
    return {WEIGHT: Parameter((count, width), _normal), BIAS: Parameter((count,))}


def gates(parameters: Mapping[str, Tensor], x: Tensor, forward_pass: ForwardPass) -> Tensor:
    """Return the gates of each text (R, 1, count) from the states x (R, T, W)."""
    scores = torch.sigmoid(linear(x, parameters[WEIGHT], parameters[BIAS]).float())
    mask = forward_pass.mask.unsqueeze(-1).to(scores)
    mean = (scores * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return mean.to(x.dtype)


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=STD, generator=generator)
