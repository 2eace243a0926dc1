"""Parameters that learn faster than others: trained divided by a factor, used multiplied by it.

Adam's steps have a length that does not depend on the size of a parameter, so a parameter that is
trained at a tenth of its size moves ten times as far in a step.
"""

from collections.abc import Mapping

from torch import Tensor, nn


class Rates(nn.Module):
    """Stands for named tensors; each learns ``factors[name]`` times as fast (once where not named)."""

    def __init__(self, start: Mapping[str, Tensor], factors: Mapping[str, float]) -> None:
        super().__init__()
        self.factors = {name: factors.get(name, 1.0) for name in start}
        self.scaled = nn.ParameterList([tensor / self.factors[name] for name, tensor in start.items()])

    def forward(self) -> dict[str, Tensor]:
        """Return every tensor as it would be stored."""
        return {name: tensor * factor for (name, factor), tensor in zip(self.factors.items(), self.scaled, strict=True)}
