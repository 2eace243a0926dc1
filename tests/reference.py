"""Plain references: what the fast paths must agree with, written for reading."""

import torch
from torch import Tensor


def attention_with_prefix(
    query: Tensor, key: Tensor, value: Tensor, prefix: tuple[Tensor, Tensor, Tensor], scale: float, causal: bool
) -> Tensor:
    """Attention of one row without padding, (heads, T, width), over learned and own keys.

    ``prefix`` is keys (key heads, L, width), values and gates (L); query heads share key heads in order.
    """
    prefix_key, prefix_value, gate = prefix
    heads = []
    for number in range(query.shape[0]):
        shared = number * key.shape[0] // query.shape[0]
        own = torch.exp(query[number] @ key[shared].T * scale)
        own = own.tril() if causal else own
        learned = torch.exp(query[number] @ prefix_key[shared].T * scale) * gate**2
        taken = learned @ prefix_value[shared] + own @ value[shared]
        heads.append(taken / (learned.sum(1, keepdim=True) + own.sum(1, keepdim=True)))
    return torch.stack(heads)


def fusion(out: Tensor, outputs: list[Tensor], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """AdapterFusion at one port, position by position: ``out`` (T, W), and each member's own output (T, W)."""
    positions = []
    for number, h in enumerate(out):
        scores = torch.stack([(query @ h) @ (key @ member[number]) for member in outputs])
        shares = scores.softmax(0)
        positions.append(
            h + sum(share * (value @ member[number]) for share, member in zip(shares, outputs, strict=True))
        )
    return torch.stack(positions)
