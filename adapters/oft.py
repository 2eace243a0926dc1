"""OFT: orthogonal finetuning (Qiu et al. 2023, arXiv:2306.07280), in the form of Qiu et al. 2025 (arXiv:2506.19847).

``W (x R)`` with R block-diagonal, so each block of the input is rotated. A block comes from a skew-symmetric matrix S,
whose upper triangle is learned and zero at the start. With ``terms`` R is a Neumann series of ``(I + S) (I - S)^-1``,
which is a rotation up to the powers that are left out; with ``terms`` 0 it is the exact Cayley transform ``(I - S)
(I + S)^-1``. PEFT has both.
"""

from collections.abc import Hashable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from adaptdock.adapters.interchange import rotations
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.rotations import cayley, check_block_size, neumann, skew_symmetric


class OFTOptions(Options):
    """Options of ``oft``."""

    block_size: int = Field(32, gt=1)
    """Width of a rotated block, which divides the inputs of each adapted layer."""
    share: bool = False
    """Learn one rotation for all blocks of a layer."""
    terms: int = Field(5, ge=0)
    """Terms of the Neumann series; 0 computes the exact Cayley transform."""
    roles: tuple[str, ...] = ("query", "value")
    """Linear layers to adapt, by role; "all" for every role."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class OFT(Method):
    """A rotation of the blocks of each selected linear layer's input."""

    Options = OFTOptions
    options: OFTOptions
    peft_types = {"OFT": rotations.OftOptions}

    @property
    def stack_key(self) -> Hashable:
        """The width of a block."""
        return self.options.block_size

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act before the linear ports with these roles; raise :class:`UsageError` if blocks do not fit an input."""
        selected = ports.select("linear", self.options.roles, self.options.layers)
        check_block_size("oft", self.options.block_size, selected)
        return tuple(Site(port, side="input") for port in selected)

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare the upper triangles (blocks, block_size * (block_size - 1) / 2), zero at the start."""
        size = self.options.block_size
        blocks = 1 if self.options.share else site.port.inputs // size
        return {"triangles": Parameter((blocks, size * (size - 1) // 2))}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Compute the blocks of R minus the identity, (blocks, block_size, block_size)."""
        size, triangles = self.options.block_size, parameters["triangles"]
        skewed = skew_symmetric(triangles.float(), size)
        blocks = neumann(skewed, self.options.terms) if self.options.terms else cayley(skewed)
        turn = blocks - torch.eye(size, device=blocks.device)
        return {"turn": turn.expand(site.port.inputs // size, -1, -1).to(triangles)}

    def enter(self, parameters: Mapping[str, Tensor], x: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Rotate the blocks of the input, (R, T, inputs)."""
        turn = parameters["turn"]
        blocks = x.reshape(*x.shape[:2], *turn.shape[1:3])  # (R, T, blocks, block_size)
        rows = turn.expand(len(x), -1, -1, -1)
        return x + torch.einsum("rtki,rkij->rtkj", blocks, rows).flatten(-2)

    def merge(self, site: Site, folded: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return W R^T, and the bias."""
        turn = folded["turn"]
        change = torch.einsum("okj,kij->oki", weight.reshape(-1, *turn.shape[:2]), turn)
        return weight + change.flatten(1), bias

    @classmethod
    def from_peft(cls, source: PeftSource[rotations.OftOptions]) -> MethodWeights:
        """Read PEFT's OFT with blocks of one size; weights of the constrained form are projected."""
        return rotations.oft_from_peft(source)

    def to_peft(self, target: PeftTarget) -> PeftAdapter:
        """Write PEFT's OFT."""
        return rotations.oft_to_peft(self.options.model_dump(), target)
