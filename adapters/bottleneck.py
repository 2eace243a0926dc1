"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247).

``out + scale * (up f(down h))``: down (width / reduction factor, inputs), up starts at zero.
Houlsby placement acts after attention and after the feed-forward block, Pfeiffer placement after
the feed-forward block only; both before the residual sum. Sequential adapters read the block's
output, parallel ones (He et al. 2022, arXiv:2110.04366) the block's input. In a recurrent backbone, which has no such
blocks, they act after each layer, whatever the placement.
"""

from collections.abc import Hashable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.plugins.activations import ACTIVATIONS
from adaptdock.plugins.contracts import Backbone, Method, Options, Parameter, Port, Ports, Site
from adaptdock.plugins.errors import BackboneError
from adaptdock.plugins.rowwise import linear

LAYER = "layer"
"""The role of a hidden port at the output of a whole layer."""


class BottleneckOptions(Options):
    """Options of ``bottleneck``."""

    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    """houlsby: after attention and feed-forward; pfeiffer: after feed-forward only."""
    parallel: bool = False
    """Read the block's input instead of its output."""
    reduction_factor: float = Field(16.0, ge=1)
    """Width of the backbone divided by the width of the bottleneck."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Function between the two maps."""
    scale: float = Field(1.0, gt=0)
    """Factor on what the adapter adds."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the inputs that is dropped while training."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; all of them unless named."""


class Bottleneck(Method):
    """A small two-layer network after (or beside) the blocks of the backbone."""

    Options = BottleneckOptions
    options: BottleneckOptions
    grows = {"down": 0, "down_bias": 0, "up": 1}

    @property
    def stack_key(self) -> Hashable:
        """The activation and what is read: they cannot differ within one operation."""
        return self.options.activation, self.options.parallel

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the maps that end the attention and feed-forward blocks, or at the layers of a recurrent backbone."""
        if LAYER in ports.roles("hidden"):
            return tuple(Site(port) for port in ports.select("hidden", (LAYER,), self.options.layers))
        roles = ("ffn_down",) if self.options.placement == "pfeiffer" else ("attention_output", "ffn_down")
        chosen = ports.select("linear", roles, self.options.layers)
        return tuple(Site(port, _block_start(ports, port) if self.options.parallel else None) for port in chosen)

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep two maps with biases; the second starts at zero."""
        inputs = (site.source or site.port).inputs if self.options.parallel else site.port.outputs
        width = max(1, int(site.port.outputs / self.options.reduction_factor))
        return {
            "down": Parameter((width, inputs), _normal),
            "down_bias": Parameter((width,)),
            "up": Parameter((site.port.outputs, width)),
            "up_bias": Parameter((site.port.outputs,)),
        }

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Put the scale into the second map."""
        scaled = {name: parameters[name] * self.options.scale for name in ("up", "up_bias")}
        return {**parameters, **scaled}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, dropout: bool) -> Tensor:
        """Add the bottleneck's output, (R, T, W) -> (R, T, W / reduction) -> (R, T, W)."""
        read = x if self.options.parallel else out
        if dropout and self.options.dropout:
            read = functional.dropout(read, self.options.dropout)
        inner = ACTIVATIONS[self.options.activation](linear(read, parameters["down"], parameters["down_bias"]))
        return linear(inner, parameters["up"], parameters["up_bias"], onto=out)


def _block_start(ports: Ports, port: Port) -> Port:
    role = "query" if port.role == "attention_output" else "ffn_up"
    start = ports.find(role, port)
    if start is None:
        raise BackboneError(f"parallel bottleneck: no {role} port stands before {port.name} in this backbone")
    return start


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)
