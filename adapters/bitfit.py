"""BitFit: bias-only fine-tuning (Ben Zaken et al. 2022, arXiv:2106.10199).

``out + b`` after each linear layer, with b (outputs), zero at the start. Stored is the difference from the frozen bias,
so weight decay pulls to it; a layer without a bias gets one. The paper also trains the biases of the norms: the method
``norms`` does that, and both can be combined.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.interchange.changes import WeightChange
from adaptdock.plugins.toolkit.interchange.ports import port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.learning_rates import Rates


class BitFitOptions(Options):
    """Options of ``bitfit``."""

    roles: tuple[str, ...] = ("all",)
    """Linear layers whose bias is learned, by role; "all" for every role."""
    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the biases, as a multiple of the head's: they need larger steps."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class BitFit(Method):
    """A change of the bias of each selected linear layer."""

    Options = BitFitOptions
    options: BitFitOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare b (outputs), zero at the start."""
        return {"bias_shift": Parameter((site.port.outputs,))}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the change, (R, T, outputs)."""
        return out + parameters["bias_shift"].unsqueeze(1)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W, and the bias with its change."""
        return weight, bias + folded["bias_shift"]

    def reparameterise(self, start: Mapping[str, Tensor], generator: torch.Generator) -> nn.Module | None:
        """Train the biases with the head's learning rate times ``learning_rate_factor``."""
        return Rates(start, dict.fromkeys(start, self.options.learning_rate_factor))

    @classmethod
    def numbers(cls, change: WeightChange) -> int | None:
        """Count b for a linear layer with a changed bias and no other change."""
        port = change.port
        return port.outputs if port.kind == "linear" and change.weight is None and change.bias is not None else None

    @classmethod
    def from_changes(cls, changes: Sequence[WeightChange], backbone: Backbone) -> MethodWeights:
        """Store the change of each bias."""
        shifts = {change.port.name: change.bias for change in changes if change.bias is not None}
        tensors = {name: {"bias_shift": shift.float()} for name, shift in shifts.items()}
        return MethodWeights(port_selection(backbone.ports, [change.port for change in changes]), tensors)
