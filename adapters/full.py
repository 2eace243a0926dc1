"""Full fine-tuning of linear maps, kept as the difference from the frozen weights.

``out + D x + d`` with D (outputs, inputs) and d (outputs), zero at the start: what plain fine-tuning makes of
W and its bias is W + D and b + d. Embeddings and the factors of layer norms stay as they are. It is a baseline
for the small methods: the file is as large as the maps that it changes, and weight decay draws to the
pre-trained weights, not to zero.
"""

from collections.abc import Mapping

from torch import Tensor

from adaptdock.plugins.contracts import ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear


class FullOptions(Options):
    """Options of ``full``."""

    roles: tuple[str, ...] = ("all",)
    """Linear maps that are trained, by role; "all" for every one."""
    layers: str | None = None
    """Layers to train, such as 3-5 or 0,2; all of them unless named."""


class Full(Method):
    """A difference for every weight of the chosen linear maps."""

    Options = FullOptions
    options: FullOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with the chosen roles."""
        return tuple(Site(port) for port in ports.select("linear", self.options.roles, self.options.layers))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep D (outputs, inputs) and d (outputs), zero at the start."""
        port = site.port
        return {"weight_change": Parameter((port.outputs, port.inputs)), "bias_change": Parameter((port.outputs,))}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add what the difference makes of the input, (R, T, inputs) -> (R, T, outputs)."""
        return linear(x, parameters["weight_change"], parameters["bias_change"], onto=out)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W + D and b + d."""
        return weight + folded["weight_change"], bias + folded["bias_change"]
