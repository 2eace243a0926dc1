"""Frozen features: nothing is changed in the backbone, the head alone learns (the feature-based way of transfer).

Peters et al. 2019 (arXiv:1903.05987) compare it with fine-tuning. Where no adapter acts, the features of a text
are always the same, so that they can be computed once: ``--cache`` of ``adapt train``.

With ``mix`` the head reads, in place of the last states, those of all layers as ELMo mixes them (Peters et al. 2018,
arXiv:1802.05365, equation 1)::

    gamma * sum over l of softmax(w)_l * h_l

where h_0 are the embeddings and h_n the last states, after the model's own last norm if it has one. It starts as the
plain mean. What is folded is the difference from the last states, so that zeros are the identity: rows with a mix
and without share a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site


class FeaturesOptions(Options):
    """Options of ``features``."""

    mix: Literal["last", "layers"] = "last"
    """What the head reads: the last hidden states, or a learned mix of those of all layers."""


class Features(Method):
    """No change at all, or a mix of layers before the head."""

    Options = FeaturesOptions
    options: FeaturesOptions

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act nowhere, or between the layers and the head."""
        if self.options.mix == "last":
            return ()
        return tuple(Site(port) for port in ports.select("layers", ("layers",)))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Keep w (layers + 1), zeros at the start, and gamma (1), one."""
        return {"mix_weight": Parameter((site.port.layer + 1,)), "mix_gamma": Parameter((1,), _one)}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Return how much more of each layer there is than in the last states alone, (layers + 1)."""
        share = parameters["mix_gamma"].float() * parameters["mix_weight"].float().softmax(0)
        last = torch.zeros_like(share)
        last[-1] = 1
        return {"mix": (share - last).to(parameters["mix_weight"].dtype)}

    def mix(
        self, parameters: Mapping[str, Tensor], layers: Sequence[Tensor], out: Tensor, forward_pass: ForwardPass
    ) -> Tensor:
        """Add what there is more of each layer, (R, T, W)."""
        for number, state in enumerate(layers):
            out = out + parameters["mix"][:, number, None, None] * state
        return out


def _one(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(1.0)
