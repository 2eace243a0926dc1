"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2024, arXiv:2310.11454).

``out + b * (B (d * (A x)))`` with frozen random A (rank, inputs) and B (outputs, rank), and with learned b (outputs),
zero at the start, and d (rank). All layers share one pair of matrices, of which each uses the part of its size. The
matrices come from ``projection_seed``, so a file holds the vectors alone. They are Kaiming-uniform, drawn as in PEFT:
first A, then B, each as wide as the widest adapted layer.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from adaptdock.adapters.interchange import vera
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.learning_rates import Rates


class VeRAOptions(Options):
    """Options of ``vera``."""

    rank: int = Field(256, gt=0)
    """Rank of the shared matrices: large, because each layer learns one number for each rank."""
    initial: float = 0.1
    """Initial value of the learned factors between the matrices."""
    projection_seed: int = Field(0, ge=0)
    """Seed of the shared matrices."""
    store_projection: bool = False
    """Keep the shared matrices in the file, at each layer, instead of their seed."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate of the inputs during training."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the vectors, as a multiple of the head's: vectors need larger steps."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class VeRA(Method):
    """A random low-rank update of each selected linear layer, scaled by learned vectors."""

    Options = VeRAOptions
    options: VeRAOptions
    grows = {"down": 0, "up": 1}
    peft_types = {"VERA": vera.VeraOptions}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare b (outputs), zero, and d (rank), constant at the start; with ``store_projection`` A and B, frozen."""
        rank, port = self.options.rank, site.port
        declared = {
            "vera_b": Parameter((port.outputs,)),
            "vera_d": Parameter((rank,), self._constant),
        }
        if not self.options.store_projection:
            return declared
        return declared | {
            "projection_a": Parameter((rank, port.inputs), _kaiming, trained=False),
            "projection_b": Parameter((port.outputs, rank), _kaiming, trained=False),
        }

    def _constant(self, tensor: Tensor, generator: torch.Generator) -> None:
        tensor.fill_(self.options.initial)

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Scale the rows of A by d, and the rows of B by b."""
        like = parameters["vera_b"]
        if self.options.store_projection:
            down, up = parameters["projection_a"], parameters["projection_b"]
        else:
            shared_down, shared_up = projection(self.options, self.sites(backbone.ports))
            down, up = shared_down[:, : site.port.inputs].to(like), shared_up[: site.port.outputs].to(like)
        return {"down": parameters["vera_d"].unsqueeze(1) * down, "up": parameters["vera_b"].unsqueeze(1) * up}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update, (R, T, inputs) -> (R, T, rank) -> (R, T, outputs)."""
        if forward_pass.training and self.options.dropout:
            x = functional.dropout(x, self.options.dropout)
        return linear(linear(x, parameters["down"]), parameters["up"], onto=out)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W with the update, and the bias."""
        return weight + folded["up"] @ folded["down"], bias

    def reparameterise(self, start: Mapping[str, Tensor], generator: torch.Generator) -> nn.Module | None:
        """Train the vectors with the head's learning rate times ``learning_rate_factor``."""
        return Rates(start, dict.fromkeys(start, self.options.learning_rate_factor))

    @classmethod
    def from_peft(cls, source: PeftSource[vera.VeraOptions]) -> MethodWeights:
        """Read PEFT's VeRA; its matrices are stored only if the seed does not give them."""

        def drawn(values: Mapping[str, object]) -> tuple[Tensor, Tensor]:
            options = VeRAOptions.model_validate(values)
            return projection(options, cls(options).sites(source.backbone.ports))

        return vera.from_peft(source, drawn)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's VeRA, with its matrices."""
        shared = projection(self.options, self.sites(target.backbone.ports))
        return vera.to_peft(self.options.model_dump(), target, shared)


def projection(options: VeRAOptions, sites: tuple[Site, ...]) -> tuple[Tensor, Tensor]:
    """Return A (rank, widest inputs) and B (widest outputs, rank) of the seed, float32."""
    inputs, outputs = (max(getattr(site.port, side) for site in sites) for side in ("inputs", "outputs"))
    return _drawn(options.projection_seed, options.rank, inputs, outputs)


@lru_cache(maxsize=8)
def _drawn(seed: int, rank: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.empty(rank, inputs), torch.empty(outputs, rank)
    _kaiming(down, generator)
    _kaiming(up, generator)
    return down, up


def _kaiming(tensor: Tensor, generator: torch.Generator) -> None:
    """Fill a matrix (outputs, inputs) uniformly up to the square root of 6 / inputs (He et al. 2015)."""
    bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(tensor.shape[1]))
    tensor.uniform_(-bound, bound, generator=generator)
