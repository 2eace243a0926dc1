"""Frozen features: the backbone does not change, and only the head is trained (feature-based transfer).

Peters et al. 2019 (arXiv:1903.05987) compare it with fine-tuning. Without an adapter, the features of a text are
constant, so ``adapt train --cache`` computes them once.

With ``mix`` the head reads a mix of the hidden states of all layers, as in ELMo (Peters et al. 2018, arXiv:1802.05365,
equation 1)::

    gamma * sum over l of softmax(w)_l * h_l

where h_0 are the embeddings and h_n the last states, after the model's final norm if it has one. The mix starts as the
plain mean. Folded is the difference from the last states, so zeros are the identity, and rows with and without a mix
share a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site


class FeaturesOptions(Options):
    """Options of ``features``."""

    mix: Literal["last", "layers"] = "last"
    """Input of the head: the last hidden states, or a learned mix of the states of all layers."""


class Features(Method):
    """No change of the backbone; optionally a mix of layers before the head."""

    Options = FeaturesOptions
    options: FeaturesOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act nowhere, or between the backbone and the head."""
        if self.options.mix == "last":
            return ()
        return tuple(Site(port) for port in ports.select("layers", ("layers",)))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare w (layers + 1), zero at the start, and gamma (1), one at the start."""
        return {"mix_weight": Parameter((site.port.layer + 1,)), "mix_gamma": Parameter((1,), _one)}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Return the weight of each layer minus its weight in the last states alone, (layers + 1)."""
        share = parameters["mix_gamma"].float() * parameters["mix_weight"].float().softmax(0)
        last = torch.zeros_like(share)
        last[-1] = 1
        return {"mix": (share - last).to(parameters["mix_weight"].dtype)}

    def mix(
        self, parameters: Mapping[str, Tensor], layers: Sequence[Tensor], out: Tensor, forward_pass: ForwardPass
    ) -> Tensor:
        """Add the weighted states of all layers, (R, T, W)."""
        for number, state in enumerate(layers):
            out = out + parameters["mix"][:, number, None, None] * state
        return out


def _one(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(1.0)
