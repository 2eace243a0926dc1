"""UniPELT (Mao et al. 2022, arXiv:2110.07577): LoRA, prefixes and bottlenecks in one, each weighed by a gate.

LoRA at queries and values, a prefix in each attention, and a bottleneck after each feed-forward block. Each has a gate
at every layer, the mean of ``sigmoid(w x_t + c)`` over the positions t of the text. The prefix has a closed gate for
each of its positions too (see ``prefix``), so an untrained adapter is the identity; in the paper it has not.
"""

from typing import Any

from pydantic import Field

from adaptdock.plugins.contracts import Combination, Options
from adaptdock.plugins.toolkit.activations import Activation


class UniPELTOptions(Options):
    """Options of ``unipelt``."""

    rank: int = Field(8, gt=0)
    """Rank of LoRA."""
    alpha: float = Field(16.0, gt=0)
    """Scale of LoRA, before division by the rank."""
    length: int = Field(10, gt=0)
    """Number of learned positions in each attention."""
    gate: bool = True
    """Learn a gate for the attention to each position, closed at the start."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the prefix, as a multiple of the learning rate of the other weights."""
    reparameterise: bool = False
    """Train the prefix through a small network, which is not saved."""
    reduction_factor: float = Field(16.0, ge=1)
    """Width of the backbone divided by the width of the bottleneck."""
    activation: Activation = "relu"
    """Activation function between the two linear layers of the bottleneck."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the inputs of LoRA and bottleneck during training."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class UniPELT(Combination):
    """Gated LoRA, a gated prefix, and gated bottlenecks after the feed-forward blocks."""

    Options = UniPELTOptions
    options: UniPELTOptions

    def methods(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the three methods."""
        options = self.options.model_dump()

        def selected(*names: str) -> dict[str, Any]:
            return {name: options[name] for name in names}

        prefix = selected("length", "gate", "learning_rate_factor", "reparameterise", "layers")
        bottleneck = selected("reduction_factor", "activation", "dropout", "layers")
        return [
            ("gated-lora", selected("rank", "alpha", "dropout", "layers")),
            ("prefix", {**prefix, "text_gates": 1}),
            ("bottleneck", {**bottleneck, "placement": "pfeiffer", "text_gate": True}),
        ]
