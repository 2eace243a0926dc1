"""Layer-norm tuning (Zhao et al. 2024, arXiv:2312.11420): only the factors and biases of the norms are learned.

``(1 + g) * out + s`` after each norm, with g (W) and s (W), zero at the start. A norm with factor w and bias b becomes
a norm with factor ``w (1 + g)`` and bias ``b (1 + g) + s``. Stored as differences from the frozen norm, they survive 16
bit, and weight decay pulls them to it. A norm without a bias (RMS norm) gets one.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.interchange.changes import WeightChange
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.learning_rates import Rates


class NormsOptions(Options):
    """Options of ``norms``."""

    roles: tuple[str, ...] = ("all",)
    """Norms to tune, by role: embedding_norm, attention_norm, ffn_norm, final_norm; "all" for every role."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of factors and biases, as a multiple of the head's: they need larger steps."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class Norms(Method):
    """A gain and a shift after each selected norm."""

    Options = NormsOptions
    options: NormsOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the norms with these roles."""
        return tuple(Site(port) for port in ports.select("norm", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare g and s (W), zero at the start."""
        return {"norm_gain": Parameter((site.port.outputs,)), "norm_shift": Parameter((site.port.outputs,))}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Multiply and shift the output of the norm, (R, T, W)."""
        shifted = out + parameters["norm_shift"].unsqueeze(1)
        return torch.addcmul(shifted, out, parameters["norm_gain"].unsqueeze(1))

    def reparameterise(self, start: Mapping[str, Tensor], generator: torch.Generator) -> nn.Module | None:
        """Train both with the head's learning rate times ``learning_rate_factor``."""
        return Rates(start, dict.fromkeys(start, self.options.learning_rate_factor))

    @classmethod
    def numbers(cls, change: WeightChange) -> int | None:
        """Count g and s for a change of a norm."""
        return 2 * change.port.outputs if change.port.kind == "norm" else None

    @classmethod
    def from_changes(cls, changes: Sequence[WeightChange], backbone: Backbone) -> MethodWeights:
        """Store gain and shift of each norm."""
        tensors = {}
        for change in changes:
            gain, shift = (
                torch.zeros(change.port.outputs) if part is None else part.float()
                for part in (change.weight, change.bias)
            )
            tensors[change.port.name] = {"norm_gain": gain, "norm_shift": shift}
        return MethodWeights({"roles": tuple(tensors)}, tensors)
