"""Full fine-tuning of linear layers, stored as the difference from the frozen weights.

``out + D x + d`` with D (outputs, inputs) and d (outputs), zero at the start: W + D and b + d are the fine-tuned weight
and bias. Embeddings and layer norms stay frozen. It is a baseline for the small methods: the file is as large as the
trained layers, and weight decay pulls to the pre-trained weights, not to zero.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange.changes import WeightChange
from adaptdock.plugins.toolkit.interchange.ports import port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights


class FullOptions(Options):
    """Options of ``full``."""

    roles: tuple[str, ...] = ("all",)
    """Linear layers to train, by role; "all" for every role."""
    layers: str | None = None
    """Layers to train, such as 3-5 or 0,2; by default all."""


class Full(Method):
    """A difference for every weight of the selected linear layers."""

    Options = FullOptions
    options: FullOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare D (outputs, inputs) and d (outputs), zero at the start."""
        port = site.port
        return {"weight_change": Parameter((port.outputs, port.inputs)), "bias_change": Parameter((port.outputs,))}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the difference applied to the input, (R, T, inputs) -> (R, T, outputs)."""
        return linear(x, parameters["weight_change"], parameters["bias_change"], onto=out)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W + D and b + d."""
        return weight + folded["weight_change"], bias + folded["bias_change"]

    @classmethod
    def numbers(cls, change: WeightChange) -> int | None:
        """Count D and d for any change of a linear layer."""
        return (change.port.inputs + 1) * change.port.outputs if change.port.kind == "linear" else None

    @classmethod
    def from_changes(cls, changes: Sequence[WeightChange], backbone: Backbone) -> MethodWeights:
        """Store the changes as they are."""
        tensors = {}
        for change in changes:
            port = change.port
            weight = torch.zeros(port.outputs, port.inputs) if change.weight is None else change.weight.float()
            bias = torch.zeros(port.outputs) if change.bias is None else change.bias.float()
            tensors[port.name] = {"weight_change": weight, "bias_change": bias}
        return MethodWeights(port_selection(backbone.ports, [change.port for change in changes]), tensors)
