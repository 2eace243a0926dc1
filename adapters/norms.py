"""Layer-norm tuning (Zhao et al. 2024, arXiv:2312.11420): the factors and biases of the norms alone are learned.

``(1 + g) * out + s`` after each norm, with g (W) and s (W), zero at the start. Of a norm with factor w and bias b
that makes one with factor ``w (1 + g)`` and bias ``b (1 + g) + s``. Kept as differences from the frozen norm they
survive 16 bit, and weight decay draws them to it. A norm without a bias of its own (RMS norm) gets one.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptdock.plugins.contracts import ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.learning_rates import Rates


class NormsOptions(Options):
    """Options of ``norms``."""

    roles: tuple[str, ...] = ("all",)
    """Norms to tune, by role: attention_norm, ffn_norm, final_norm; "all" for every one."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of factors and biases, as a multiple of the head's: they want to be moved further."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; all of them unless named."""


class Norms(Method):
    """A gain and a shift after each chosen norm."""

    Options = NormsOptions
    options: NormsOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the norms with the chosen roles."""
        return tuple(Site(port) for port in ports.select("norm", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep g and s (W), zero at the start."""
        return {"norm_gain": Parameter((site.port.outputs,)), "norm_shift": Parameter((site.port.outputs,))}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Multiply and shift what the norm puts out, (R, T, W)."""
        shifted = out + parameters["norm_shift"].unsqueeze(1)
        return torch.addcmul(shifted, out, parameters["norm_gain"].unsqueeze(1))

    def reparameterise(self, start: Mapping[str, Tensor], generator: torch.Generator) -> nn.Module | None:
        """Let both learn faster than the head by the learning rate factor."""
        return Rates(start, dict.fromkeys(start, self.options.learning_rate_factor))
