"""BOFT: orthogonal finetuning by a butterfly factorisation (Liu et al. 2024, arXiv:2311.06243).

``s * (W (x R)) + bias`` with s (outputs) learned, one at the start, and R a product of ``factors`` sparse rotations,
``P_i B_i P_i^T``. B_i is block-diagonal; a block is the Cayley transform ``(I - S) (I + S)^-1`` of S, with ``S = (A -
A^T) / 2`` and A learned, zero at the start. The permutation P_i brings inputs together that are 2^i blocks apart, so
each factor doubles the reach of R. With one factor R is that of OFT. Stored is the difference of s from one.

Docked, the rotation is folded into a change of the layer's weight, so a slot is as large as the adapted layers.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from adaptdock.adapters.interchange import rotations
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Port, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.rotations import butterfly_order, cayley, check_block_size


class BOFTOptions(Options):
    """Options of ``boft``."""

    block_size: int = Field(8, gt=1)
    """Width of a rotated block, which divides the inputs of each adapted layer."""
    factors: int = Field(1, gt=0)
    """Number of sparse rotations; each further one doubles the distance over which inputs are mixed."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class BOFT(Method):
    """A rotation of each selected linear layer's input, and a factor on each output."""

    Options = BOFTOptions
    options: BOFTOptions
    peft_types = {"BOFT": rotations.BoftOptions}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the linear ports with these roles; raise :class:`UsageError` if blocks do not fit an input."""
        selected = ports.select("linear", self.options.roles, self.options.layers)
        check_block_size("boft", self.options.block_size, selected)
        if self.options.factors > 1:
            for port in selected:
                self._check_factors(port)
        return tuple(Site(port) for port in selected)

    def _check_factors(self, port: Port) -> None:
        """Raise :class:`UsageError` for more factors than the blocks of an input can be divided into pairs."""
        size, blocks = self.options.block_size, port.inputs // self.options.block_size
        if size % 2 or blocks % 2 ** (self.options.factors - 1):
            raise UsageError(
                f"boft: {self.options.factors} factors need an even block_size, and a multiple of "
                f"{2 ** (self.options.factors - 1)} blocks; the {port.inputs} inputs of {port.name} have {blocks} "
                f"blocks of {size}. Use fewer --factors, or another --block-size"
            )

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare A (factors, blocks, block_size, block_size) and the change of s (outputs), zero at the start."""
        size, port = self.options.block_size, site.port
        return {
            "blocks": Parameter((self.options.factors, port.inputs // size, size, size)),
            "scale_change": Parameter((port.outputs,)),
        }

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Compute the change of the weight, ``s * (W R^T) - W`` (outputs, inputs)."""
        stored = parameters["blocks"]
        blocks = stored.float()
        frozen = backbone.weight(site.port).to(blocks)
        skewed = 0.5 * (blocks - blocks.mT)
        turned = frozen
        for number, rotations_of_factor in enumerate(cayley(skewed.flatten(0, 1)).view(blocks.shape)):
            order = butterfly_order(site.port.inputs, blocks.shape[1] // 2**number, blocks.shape[2])
            turned = _rotated(turned, rotations_of_factor, order.to(turned.device))
        scale = 1 + parameters["scale_change"].float().unsqueeze(1)
        return {"weight_change": (scale * turned - frozen).to(stored)}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the change, (R, T, inputs) -> (R, T, outputs)."""
        return linear(x, parameters["weight_change"], onto=out)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the changed weight, and the bias."""
        return weight + folded["weight_change"], bias

    @classmethod
    def from_peft(cls, source: PeftSource[rotations.BoftOptions]) -> MethodWeights:
        """Read PEFT's BOFT with blocks of one size."""
        return rotations.boft_from_peft(source)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's BOFT."""
        return rotations.boft_to_peft(self.options.model_dump(), target)


def _rotated(weight: Tensor, blocks: Tensor, order: Tensor) -> Tensor:
    """Return ``W P B^T P^T`` for the permutation matrix P of an order (inputs)."""
    sorted_columns = weight[:, order.argsort()].reshape(-1, *blocks.shape[:2])
    return torch.einsum("oki,kji->okj", sorted_columns, blocks).flatten(1)[:, order]
