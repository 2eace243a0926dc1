"""LoReFT: low-rank linear representation finetuning (Wu et al. 2024, arXiv:2404.03592).

``h + R^T (W h + b - R h)`` at the output h of whole layers, with R (rank, width) of orthonormal rows. Stored are D
(rank, width), the difference of W from R, and b (rank), both zero at the start, and a free matrix whose QR
decomposition gives R. So the forward pass computes ``h + R^T (D h + b)``.

With ``first`` only that many positions at the beginning of each text change, as in the paper. Positions are counted
within each text: padding, neighbouring texts and generated tokens do not count.
"""

from collections.abc import Hashable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from adaptdock.adapters.interchange import loreft
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights


class LoReFTOptions(Options):
    """Options of ``loreft``."""

    rank: int = Field(4, gt=0)
    """Dimension of the subspace of the change."""
    first: int | None = Field(None, gt=0)
    """Number of changed positions at the beginning of each text; by default all."""
    layers: str | None = None
    """Layers to adapt, such as 3-5 or 0,2; by default all."""


class LoReFT(Method):
    """A change of the hidden states in a learned subspace, after whole layers."""

    Options = LoReFTOptions
    options: LoReFTOptions
    grows = {"rotation": 0, "change": 0, "bias": 0}
    adapterhub_types = {"reft": loreft.ReftOptions}

    @property
    def stack_key(self) -> Hashable:
        """The number of changed positions."""
        return self.options.first

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the outputs of whole layers; raise :class:`UsageError` for a rank above their width."""
        blocks = ports.select("hidden", ("block",), self.options.layers)
        narrow = next((port for port in blocks if port.outputs < self.options.rank), None)
        if narrow is not None:
            raise UsageError(f"loreft: rank {self.options.rank} is above the width {narrow.outputs} of {narrow.name}")
        return tuple(Site(port) for port in blocks)

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare a free matrix (rank, width), normal at the start, D (rank, width) and b (rank), zero."""
        shape = (self.options.rank, site.port.outputs)
        return {"free": Parameter(shape, _normal), "change": Parameter(shape), "bias": Parameter(shape[:1])}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Compute R from the free matrix, with the signs of its rows such that an orthonormal matrix is unchanged."""
        rotation = _rotation(parameters["free"])
        return {"rotation": rotation, "change": parameters["change"], "bias": parameters["bias"]}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Change the states, (R, T, W) -> (R, T, rank) -> (R, T, W)."""
        inner = linear(out, parameters["change"], parameters["bias"])
        if self.options.first is not None:
            early = (forward_pass.positions < self.options.first) & forward_pass.mask.bool()
            inner = inner * early.unsqueeze(-1).to(inner.dtype)
        return linear(inner, parameters["rotation"].mT, onto=out)

    @classmethod
    def from_adapterhub(cls, source: AdapterHubSource[loreft.ReftOptions]) -> MethodWeights:
        """Read AdapterHub's LoReFT at the beginning of texts."""
        return loreft.from_adapterhub(source)

    def to_adapterhub(self, target: AdapterHubTarget) -> AdapterHubMethod:
        """Write AdapterHub's LoReFT."""
        rotations = {name: _rotation(tensors["free"].float()) for name, tensors in target.tensors.items()}
        return loreft.to_adapterhub(self.options.model_dump(), rotations, target)


def _rotation(free: Tensor) -> Tensor:
    """Return R (rank, width) of a free matrix: an orthonormal matrix is unchanged."""
    orthonormal, triangle = torch.linalg.qr(free.float().mT)
    rotation: Tensor = (orthonormal * triangle.diagonal().sign()).mT
    return rotation.to(free)


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(generator=generator)
