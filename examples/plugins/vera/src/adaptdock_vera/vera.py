"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2023, arXiv:2310.11454).

``out + b * (B (d * (A x)))`` with A (rank, inputs) and B (outputs, rank) random and never trained: they come from a
seed, the same for every map of that shape, so that only the vectors d (rank) and b (outputs) are learnt and stored.
b starts at zero.
"""

from collections.abc import Mapping
from functools import lru_cache

import torch
from pydantic import Field
from torch import Tensor

from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.lowrank import kaiming


class VeRAOptions(Options):
    """Options of ``vera``."""

    rank: int = Field(128, gt=0)
    """Rank of the random matrices."""
    d_initial: float = 0.1
    """What every element of d starts with."""
    seed: int = 0
    """Seed of the random matrices."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear maps to adapt, by role; "all" for every one."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; all of them unless named."""


class VeRA(Method):
    """A low-rank update of which only two vectors are learnt."""

    Options = VeRAOptions
    options: VeRAOptions
    grows = {"down": 0, "up": 1}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with the chosen roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep d (rank) and b (outputs)."""
        start = self.options.d_initial
        filled = Parameter((self.options.rank,), lambda tensor, generator: tensor.fill_(start))
        return {"d": filled, "b": Parameter((site.port.outputs,))}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Multiply the random matrices by the vectors: d A (rank, inputs), b B (outputs, rank)."""
        down, up = matrices(self.options.seed, self.options.rank, site.port.inputs, site.port.outputs)
        d, b = parameters["d"].unsqueeze(1), parameters["b"].unsqueeze(1)
        return {"down": d * down.to(d), "up": b * up.to(b)}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update, (R, T, inputs) -> (R, T, rank) -> (R, T, outputs)."""
        return linear(linear(x, parameters["down"]), parameters["up"], onto=out)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W + (b B) (d A), and the bias."""
        return weight + folded["up"] @ folded["down"], bias


@lru_cache(maxsize=32)
def matrices(seed: int, rank: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return A (rank, inputs) and B (outputs, rank), Kaiming-uniform."""
    generator, down, up = torch.Generator().manual_seed(seed), torch.empty(rank, inputs), torch.empty(outputs, rank)
    kaiming(down, generator)
    kaiming(up, generator)
    return down, up
