"""Activation functions by the names that options use."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "tanh", "leaky_relu", "mish", "identity"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "tanh": torch.tanh,
    "leaky_relu": functional.leaky_relu,
    "mish": functional.mish,
    "identity": lambda x: x,
}
"""All functions map zero to zero, so that padding with zeros stays exact."""
