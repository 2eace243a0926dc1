"""Activation functions by the names that options use."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal[
    "relu",
    "gelu",
    "gelu_tanh",
    "gelu_10",
    "quick_gelu",
    "silu",
    "tanh",
    "leaky_relu",
    "mish",
    "relu6",
    "hardswish",
    "relu2",
    "identity",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "gelu_10": lambda x: functional.gelu(x).clamp(-10, 10),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": functional.silu,
    "tanh": torch.tanh,
    "leaky_relu": functional.leaky_relu,
    "mish": functional.mish,
    "relu6": functional.relu6,
    "hardswish": functional.hardswish,
    "relu2": lambda x: functional.relu(x).square(),
    "identity": lambda x: x,
}
"""All functions map zero to zero, so that padding with zeros stays exact."""
