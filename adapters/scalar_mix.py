"""ELMo's scalar mix (Peters et al. 2018, arXiv:1802.05365, section 3.2): learned weights for the layers of a backbone.

``gamma * sum_j s_j h_j`` with s = softmax(w), for layers h_j that lie side by side in what enters the port. The
backbone puts out their mean, which is this at w = 0 and gamma = 1; gamma is kept as its difference from one, so that
zeros are the identity. What acts is ``out + sum_j (gamma s_j - 1/N) h_j``.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from adaptdock.plugins.contracts import Backbone, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.rates import Rates

MIX = "mix"


class ScalarMixOptions(Options):
    """Options of ``scalar_mix``."""

    learning_rate_factor: float = Field(10.0, gt=0)
    """Learning rate of the weights, as a multiple of the head's: they are few and want to be moved further."""


class ScalarMix(Method):
    """A weight for each layer, and one for their sum."""

    Options = ScalarMixOptions
    options: ScalarMixOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act where a backbone mixes its layers."""
        return tuple(Site(port) for port in ports.select("hidden", (MIX,)))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep w (layers) and gamma - 1 (1), zero at the start."""
        return {"mix_weights": Parameter((site.port.inputs // site.port.outputs,)), "gamma_change": Parameter((1,))}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Return by how much the share of each layer (layers) differs from an even one."""
        shares = parameters["mix_weights"].float().softmax(0) * (1 + parameters["gamma_change"].float())
        return {"share_change": (shares - 1 / len(shares)).to(parameters["mix_weights"])}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, dropout: bool) -> Tensor:
        """Add what other shares make of the layers, (R, T, layers * W) -> (R, T, W)."""
        change = parameters["share_change"]
        layers = x.reshape(*x.shape[:-1], change.shape[-1], -1)  # (R, T, layers, W)
        return out + (layers * change[:, None, :, None]).sum(-2)

    def reparameterise(self, start: Mapping[str, Tensor], generator: object) -> nn.Module | None:
        """Let the weights learn faster than the head by the learning rate factor."""
        return Rates(start, dict.fromkeys(start, self.options.learning_rate_factor))
