"""Arithmetic on rows that each have weights of their own, for methods and heads."""

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, onto: Tensor | None = None) -> Tensor:
    """Apply a linear map per row and return it, added to ``onto`` if that is given.

    ``x`` (R, T, inputs), ``weight`` (R, outputs, inputs), ``bias`` (R, outputs), ``onto``
    (R, T, outputs). Weights with one row are shared by all rows of ``x``, in one matrix product.
    """
    if weight.shape[0] == 1:
        out = torch.nn.functional.linear(x, weight[0], None if bias is None else bias[0])
        return out if onto is None else onto + out
    if bias is not None:
        onto = bias.unsqueeze(1) if onto is None else onto + bias.unsqueeze(1)
    if onto is None:
        return torch.bmm(x, weight.mT)
    return torch.baddbmm(onto, x, weight.mT)
