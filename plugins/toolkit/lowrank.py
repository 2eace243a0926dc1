"""Scale and initialisation of low-rank updates of linear layers."""

import math

import torch
from torch import Tensor


def scale(rank: int, alpha: float, rslora: bool) -> float:
    """Return alpha / rank, or alpha / sqrt(rank) with rank stabilisation (Kalajdzievski 2023, arXiv:2312.03732)."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def kaiming(tensor: Tensor, generator: torch.Generator) -> None:
    """Fill A (rank, inputs) Kaiming-uniformly, like the weight of ``nn.Linear``."""
    torch.nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
