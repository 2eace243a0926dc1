"""LoRA on the input embeddings (Hu et al. 2021, arXiv:2106.09685): a low-rank update of the token vectors.

``out + scale * B A[:, token]`` with A (rank, V), zero at the start, and B (W, rank), normal; scale is alpha / rank, or
alpha / sqrt(rank) with rank stabilisation. peft computes the same at an embedding. If the backbone multiplies its
embeddings by a constant, the update is added to the product. The virtual tokens of a prompt do not change.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Backbone, ForwardPass, Method, Options, Parameter, Ports, Site
from adaptdock.plugins.toolkit.batched_linear import linear
from adaptdock.plugins.toolkit.interchange.changes import WeightChange
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights
from adaptdock.plugins.toolkit.lowrank import scale


class EmbeddingLoRAOptions(Options):
    """Options of ``embedding-lora``."""

    rank: int = Field(8, gt=0)
    """Rank of the update."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update, before division by the rank."""
    rslora: bool = False
    """Divide alpha by the square root of the rank instead of the rank."""


class EmbeddingLoRA(Method):
    """A low-rank update of the table of input embeddings."""

    Options = EmbeddingLoRAOptions
    options: EmbeddingLoRAOptions
    grows = {"embedding_a": 0, "embedding_b": 1}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the input embeddings; raise :class:`BackboneError` if they are not a table of tokens."""
        tables = ports.select("embedding", ("all",))
        if not all(port.inputs for port in tables):
            raise BackboneError(f"the input embeddings of {ports.architecture!r} are not a table of tokens")
        return tuple(Site(port) for port in tables)

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare A (rank, V), zero at the start, and B (W, rank)."""
        rank, port = self.options.rank, site.port
        return {"embedding_a": Parameter((rank, port.inputs)), "embedding_b": Parameter((port.outputs, rank), _normal)}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Fold the scale into B."""
        factor = scale(self.options.rank, self.options.alpha, self.options.rslora)
        return {**parameters, "embedding_b": parameters["embedding_b"] * factor}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update of each token: (R, T) -> (R, T, rank) -> (R, T, W)."""
        tokens, table = forward_pass.token_ids, parameters["embedding_a"].mT  # (R or 1, V, rank)
        if tokens is None:
            raise BackboneError("embedding-lora: the input of the input embeddings is not tokens")
        if table.shape[0] == 1:
            narrow = functional.embedding(tokens, table[0])
        else:
            rows = torch.arange(table.shape[0], device=tokens.device).unsqueeze(1)
            narrow = table[rows, tokens]
        return linear(narrow, parameters["embedding_b"], onto=out)

    @classmethod
    def numbers(cls, change: WeightChange) -> int | None:
        """Count A and B for a change of the input embeddings."""
        port = change.port
        if port.kind != "embedding" or not port.inputs or change.weight is None or change.bias is not None:
            return None
        rank = port.outputs if change.factors is None else change.factors[1].shape[0]
        return rank * (port.inputs + port.outputs)

    @classmethod
    def from_changes(cls, changes: Sequence[WeightChange], backbone: Backbone) -> MethodWeights:
        """Store the factors of the change of the table; without factors, the whole change beside an identity."""
        (change,) = changes
        assert change.weight is not None
        identity = torch.eye(change.port.outputs)
        tokens, widths = change.factors or (change.weight.float(), identity)
        rank = widths.shape[0]
        tensors = {change.port.name: {"embedding_a": tokens.mT.contiguous(), "embedding_b": widths.mT.contiguous()}}
        return MethodWeights({"rank": rank, "alpha": float(rank)}, tensors)


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(generator=generator)
