"""Arithmetic on rows with separate weights, for methods and heads."""

import torch
from torch import Tensor
from torch.nn import functional

SMALLEST = 1e-12
"""Lower bound of epsilon: rows without a layer norm are padded with an epsilon of zero."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, onto: Tensor | None = None) -> Tensor:
    """Apply a linear layer per row and return the result, added to ``onto`` if given.

    ``x`` (R, T, inputs), ``weight`` (R, outputs, inputs), ``bias`` (R, outputs), ``onto``
    (R, T, outputs). Weights with one row are shared by all rows of ``x``, in one matrix product.
    Without gradients the result may be written into ``onto``.
    """
    if weight.shape[0] == 1:
        out = functional.linear(x, weight[0], None if bias is None else bias[0])
        return out if onto is None else onto + out
    if onto is None:
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
    if torch.is_grad_enabled():
        onto = onto if bias is None else onto + bias.unsqueeze(1)
        return torch.baddbmm(onto, x, weight.mT)
    if bias is not None:
        onto.add_(bias.unsqueeze(1))
    return onto.baddbmm_(x, weight.mT)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: Tensor) -> Tensor:
    """Return the layer norm of states (R, T, W), with factor, bias (R, W) and epsilon (R, 1) per row."""
    centred = x - x.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True) + epsilon.unsqueeze(-1).clamp(min=SMALLEST)
    return torch.addcmul(bias.unsqueeze(1), centred * spread.rsqrt(), weight.unsqueeze(1))
