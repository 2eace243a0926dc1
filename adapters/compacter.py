"""Compacter (Karimi Mahabadi et al. 2021, arXiv:2106.04647): bottlenecks of parameterised hypercomplex multiplications.

The two maps of a bottleneck are sums of n Kronecker products, ``H = sum_i A_i (x) (L_i R_i)`` and ``x H + b``, with the
rule A_i (n, n) and the factors L_i (inputs / n, rank) and R_i (rank, outputs / n) of a small map. R of the second map
starts at zero. Compacter++ acts after the feed-forward block only (placement pfeiffer). In the paper all places share
one rule; here each map has a rule, n^3 numbers.
"""

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from adaptdock.adapters.bottleneck import Bottleneck, BottleneckOptions
from adaptdock.adapters.interchange import bottleneck, compacter
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone, Parameter, Site
from adaptdock.plugins.toolkit.activations import Activation
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights

FACTORS = ("_rule", "_left", "_right")
"""Ends of the names of the parameters that make up a map."""


class CompacterOptions(BottleneckOptions):
    """Options of ``compacter``."""

    reduction_factor: float = Field(32.0, ge=1)
    """Width of the backbone divided by the width of the bottleneck, which is rounded up to whole parts."""
    activation: Activation = "gelu"
    """Activation function between the two maps."""
    dimension: int = Field(4, gt=0)
    """Number n of Kronecker products; both widths are multiples of it."""
    rank: int = Field(1, gt=0)
    """Rank of the second factors of the products."""

    @model_validator(mode="after")
    def _whole_parts(self) -> Self:
        if self.width is not None and self.width % self.dimension:
            raise ValueError(f"width {self.width} is not a multiple of dimension {self.dimension}")
        return self


class Compacter(Bottleneck):
    """A bottleneck with maps that are sums of Kronecker products."""

    Options = CompacterOptions
    options: CompacterOptions
    adapterhub_types = {None: bottleneck.BottleneckOptions}

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare rule, factors and bias of both maps; raise :class:`UsageError` for widths without whole parts."""
        options, (inputs, outputs) = self.options, self.widths(site)
        if inputs % options.dimension or outputs % options.dimension:
            raise UsageError(
                f"compacter: the widths {inputs} and {outputs} at {site.port.name} are not multiples of the dimension "
                f"{options.dimension}; choose a divisor of both (--dimension)"
            )
        parts = -(-self.inner_width(site) // options.dimension)
        first = _layer(options, "down", inputs // options.dimension, parts)
        return {**first, **_layer(options, "up", parts, outputs // options.dimension), **self.beside_layers(site)}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Compute the two maps, and fold them as a bottleneck's."""
        maps = {name: _kronecker_sum(parameters, name) for name in ("down", "up")}
        rest = {name: tensor for name, tensor in parameters.items() if not name.endswith(FACTORS)}
        return super().fold(site, {**maps, **rest}, backbone)

    @classmethod
    def from_adapterhub(cls, source: AdapterHubSource[bottleneck.BottleneckOptions]) -> MethodWeights | None:
        """Read AdapterHub's bottlenecks with ``phm_layer``."""
        return compacter.from_adapterhub(source) if source.options.phm_layer else None

    def to_adapterhub(self, target: AdapterHubTarget) -> AdapterHubMethod:
        """Write AdapterHub's compacters."""
        return compacter.to_adapterhub(self.options.model_dump(), target)


def _layer(options: CompacterOptions, name: str, inputs: int, outputs: int) -> dict[str, Parameter]:
    size, rank = options.dimension, options.rank
    return {
        f"{name}_rule": Parameter((size, size, size), _rule_start),
        f"{name}_left": Parameter((size, inputs, rank), _xavier),
        f"{name}_right": Parameter((size, rank, outputs), _xavier if name == "down" else None),
        f"{name}_bias": Parameter((size * outputs,)),
    }


def _kronecker_sum(parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the weight (outputs, inputs) of a map."""
    rule, small = parameters[f"{name}_rule"], parameters[f"{name}_left"] @ parameters[f"{name}_right"]
    rows, columns = rule.shape[1] * small.shape[1], rule.shape[2] * small.shape[2]
    return torch.einsum("nab,ncd->acbd", rule, small).reshape(rows, columns).mT


def _rule_start(tensor: Tensor, generator: torch.Generator) -> None:
    """Normal, with a standard deviation at which the sum of n products keeps the size of its input."""
    tensor.normal_(std=tensor.shape[0] ** -0.5, generator=generator)


def _xavier(tensor: Tensor, generator: torch.Generator) -> None:
    for factor in tensor:
        torch.nn.init.xavier_uniform_(factor, generator=generator)
