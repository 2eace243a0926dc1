"""Learning rates per parameter: a parameter is trained divided by a factor, and used multiplied by it.

The length of Adam's steps does not depend on the size of a parameter. So a parameter that is trained at a tenth of its
size moves ten times as far in a step.
"""

from collections.abc import Mapping

from torch import Tensor, nn


class Rates(nn.Module):
    """Replaces named tensors in training; each learns ``factors[name]`` times as fast (default 1)."""

    def __init__(self, start: Mapping[str, Tensor], factors: Mapping[str, float]) -> None:
        super().__init__()
        self.factors = {name: factors.get(name, 1.0) for name in start}
        self.scaled = nn.ParameterList([tensor / self.factors[name] for name, tensor in start.items()])

    def forward(self) -> dict[str, Tensor]:
        """Return every tensor in the form of the adapter file."""
        return {name: tensor * factor for (name, factor), tensor in zip(self.factors.items(), self.scaled, strict=True)}
