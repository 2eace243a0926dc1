"""Invertible adapters (MAD-X; Pfeiffer et al. 2020, arXiv:2005.00052): a coupling block (NICE) behind the embeddings.

The state e is split into halves e1, e2: ``y1 = e1 + F(e2)`` and ``y2 = e2 + G(y1)``. The inverse is ``e2 = y2 -
G(y1)``, then ``e1 = y1 - F(e2)``. F and G are two linear layers each, with an activation function between them; the
second starts at zero. The block acts after the layer norm of the embeddings, or without this norm at the embeddings.
"""

from collections.abc import Hashable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from adaptdock.adapters.interchange import invertible
from adaptdock.plugins.contracts import ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.activations import ACTIVATIONS, Activation
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights

NORM = "embedding_norm"


class InvertibleOptions(Options):
    """Options of ``invertible``."""

    reduction_factor: float = Field(2.0, ge=1)
    """Width of the half that F or G reads, divided by the width between its two layers."""
    activation: Activation = "relu"
    """Activation function between the two linear layers."""


class Invertible(Method):
    """A coupling block of two halves behind the input embeddings."""

    Options = InvertibleOptions
    options: InvertibleOptions
    grows = {"f_down": 0, "f_down_bias": 0, "f_up": 1, "g_down": 0, "g_down_bias": 0, "g_up": 1}
    adapterhub_types = {invertible.KIND: invertible.InvertibleOptions}

    @property
    def stack_key(self) -> Hashable:
        """The activation function."""
        return self.options.activation

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the norms of the embeddings, or at the embeddings."""
        normed = NORM in ports.roles("norm")
        return tuple(
            Site(port) for port in ports.select("norm" if normed else "embedding", (NORM if normed else "all",))
        )

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare two linear layers with biases for each of F and G; the second layers start at zero."""
        first, second = invertible.halves(site.port.outputs)
        return self._layers("f", second, first) | self._layers("g", first, second)

    def _layers(self, name: str, inputs: int, outputs: int) -> dict[str, Parameter]:
        inner = max(1, int(inputs // self.options.reduction_factor))
        return {
            f"{name}_down": Parameter((inner, inputs), _normal),
            f"{name}_down_bias": Parameter((inner,)),
            f"{name}_up": Parameter((outputs, inner)),
            f"{name}_up_bias": Parameter((outputs,)),
        }

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add F of the second half to the first, and G of the new first half to the second, (R, T, W)."""
        first, second = torch.tensor_split(out, (out.shape[-1] // 2,), dim=-1)
        first = first + self._map(parameters, "f", second)
        return torch.cat([first, second + self._map(parameters, "g", first)], dim=-1)

    def _map(self, parameters: Mapping[str, Tensor], name: str, half: Tensor) -> Tensor:
        inner = linear(half, parameters[f"{name}_down"], parameters[f"{name}_down_bias"])
        inner = ACTIVATIONS[self.options.activation](inner)
        return linear(inner, parameters[f"{name}_up"], parameters[f"{name}_up_bias"])

    @classmethod
    def from_adapterhub(cls, source: AdapterHubSource[invertible.InvertibleOptions]) -> MethodWeights:
        """Read AdapterHub's invertible adapters of the type nice."""
        return invertible.from_adapterhub(source)

    def to_adapterhub(self, target: AdapterHubTarget) -> AdapterHubMethod:
        """Write AdapterHub's invertible adapters of the type nice."""
        return invertible.to_adapterhub(self.options.model_dump(), target)


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)
