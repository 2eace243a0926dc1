"""MAM, the mix-and-match adapter (He et al. 2022, arXiv:2110.04366): prefixes and parallel bottlenecks in one.

A prefix in each attention and, beside each feed-forward block, ``scale * (up f(down x))``. Lengths, widths and the
scale are those of the paper (30, half the width of the backbone, 4). The prefix is gated, so it starts as the identity;
with ``gate`` off it is the paper's, which does not. The paper trains its prefix through a network
(``reparameterise``), and initialises the down projection like LoRA, not normal.
"""

from typing import Any, Literal

from pydantic import Field

from adaptdock.plugins.contracts import Combination, Options

OF_PREFIX = ("length", "gate", "learning_rate_factor", "reparameterise", "roles", "layers")
OF_BOTTLENECK = ("reduction_factor", "activation", "scale", "dropout", "layers")


class MAMOptions(Options):
    """Options of ``mam``."""

    length: int = Field(30, gt=0)
    """Number of learned positions in each attention."""
    gate: bool = True
    """Learn a gate for the attention to each position, closed at the start."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the prefix, as a multiple of the learning rate of the other weights."""
    reparameterise: bool = False
    """Train the prefix through a small network, which is not saved."""
    roles: tuple[str, ...] = ("attention",)
    """Ports of the prefix: attention, cross_attention, or all."""
    reduction_factor: float = Field(2.0, ge=1)
    """Width of the backbone divided by the width of the bottleneck."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Activation function between the two linear layers of the bottleneck."""
    scale: float = Field(4.0, gt=0)
    """Factor on the bottleneck's output."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the bottleneck's inputs during training."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class MAM(Combination):
    """A prefix, and a bottleneck parallel to the feed-forward block."""

    Options = MAMOptions
    options: MAMOptions

    def methods(self) -> list[tuple[str, dict[str, Any]]]:
        """Return prefix and bottleneck."""
        options = self.options.model_dump()
        placed = {"placement": "pfeiffer", "parallel": True}
        return [
            ("prefix", {name: options[name] for name in OF_PREFIX}),
            ("bottleneck", {name: options[name] for name in OF_BOTTLENECK} | placed),
        ]
