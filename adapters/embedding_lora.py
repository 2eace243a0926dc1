"""LoRA on the input embeddings and the LM head (Hu et al. 2021, arXiv:2106.09685): a low-rank update of both tables.

Embeddings: ``out + scale * B A[:, token]`` with A (rank, V), zero at the start, and B (W, rank), normal. LM head:
``out + scale * D C x`` with C (rank, W), normal, and D (V, rank), zero at the start. Scale is alpha / rank, or
alpha / sqrt(rank) with rank stabilisation. peft computes the same. The two tables of a model that ties them get an
update each. If the backbone multiplies its embeddings by a constant, the update is added to the product. The virtual
tokens of a prompt do not change.
"""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
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
    embeddings: bool = True
    """Update the input embeddings."""
    lm_head: bool = False
    """Update the LM head of a language model."""

    @model_validator(mode="after")
    def _acts(self) -> Self:
        if not self.embeddings and not self.lm_head:
            raise ValueError("neither embeddings nor lm_head is on, so nothing would be learned")
        return self


class EmbeddingLoRA(Method):
    """A low-rank update of the table of input embeddings, of the LM head, or of both."""

    Options = EmbeddingLoRAOptions
    options: EmbeddingLoRAOptions
    grows = {"embedding_a": 0, "embedding_b": 1, "lm_head_a": 0, "lm_head_b": 1}

    def sites(self, ports: Ports) -> tuple[Site, ...]:
        """Act at the tables of the options; raise :class:`BackboneError` if the backbone lacks one."""
        tables = ports.select("embedding", ("all",)) if self.options.embeddings else ()
        if not all(port.inputs for port in tables):
            raise BackboneError(f"the input embeddings of {ports.architecture!r} are not a table of tokens")
        heads = ports.select("logits", ("all",)) if self.options.lm_head else ()
        return tuple(Site(port) for port in (*tables, *heads))

    def parameters(self, site: Site) -> dict[str, Parameter]:
        """Declare A (rank, V), zero at the start, and B (W, rank); at the LM head C (rank, W) and D (V, rank), zero."""
        rank, port = self.options.rank, site.port
        if port.kind == "logits":
            return {"lm_head_a": Parameter((rank, port.inputs), _normal), "lm_head_b": Parameter((port.outputs, rank))}
        return {"embedding_a": Parameter((rank, port.inputs)), "embedding_b": Parameter((port.outputs, rank), _normal)}

    def fold(self, site: Site, parameters: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        """Fold the scale into the second factor."""
        factor = scale(self.options.rank, self.options.alpha, self.options.rslora)
        return {name: tensor * factor if name.endswith("_b") else tensor for name, tensor in parameters.items()}

    def transform(self, parameters: Mapping[str, Tensor], x: Tensor, out: Tensor, forward_pass: ForwardPass) -> Tensor:
        """Add the update of each token, (R, T) -> (R, T, rank) -> (R, T, W), or that of the logits (R, T, V)."""
        if "lm_head_a" in parameters:
            return linear(linear(x, parameters["lm_head_a"]), parameters["lm_head_b"], onto=out)
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
        """Count the factors for a change of the input embeddings or of the LM head."""
        port = change.port
        if port.kind not in ("embedding", "logits") or not port.inputs or change.weight is None:
            return None
        return None if change.bias is not None else _factors(change)[1].shape[0] * (port.inputs + port.outputs)

    @classmethod
    def from_changes(cls, changes: Sequence[WeightChange], backbone: Backbone) -> MethodWeights:
        """Store the factors of each change, padded to the larger rank; without factors, the change and an identity."""
        pairs = {change.port: _factors(change) for change in changes}
        rank = max(down.shape[0] for _, down in pairs.values())
        tensors = {}
        for port, (up, down) in pairs.items():
            missing = rank - down.shape[0]
            up, down = functional.pad(up, (0, missing)), functional.pad(down, (0, 0, 0, missing))
            names = ("lm_head_b", "lm_head_a") if port.kind == "logits" else ("embedding_a", "embedding_b")
            values = (up, down) if port.kind == "logits" else (up.mT.contiguous(), down.mT.contiguous())
            tensors[port.name] = dict(zip(names, values, strict=True))
        kinds = {port.kind for port in pairs}
        acts = {"embeddings": "embedding" in kinds, "lm_head": "logits" in kinds}
        return MethodWeights({"rank": rank, "alpha": float(rank), **acts}, tensors)


def _factors(change: WeightChange) -> tuple[Tensor, Tensor]:
    """Return factors (V, rank) and (rank, W) of a change of a table (V, W)."""
    assert change.weight is not None
    return change.factors or (change.weight.float(), torch.eye(change.weight.shape[1]))


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(generator=generator)
