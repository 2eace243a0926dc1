"""The heads that tasks share: a label a position, a label a row, a span, the next or a masked token, an embedding."""

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptdock.plugins.contracts import Head, Parameter, Tied
from adaptdock.plugins.rowwise import linear


class TokenHead(Head):
    """A linear map from each hidden state to the classes: (R, T, W) -> (R, T, classes)."""

    grows = {"weight": 0, "bias": 0}

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep a weight (classes, W) and a bias (classes)."""
        return {"weight": Parameter((self.classes, width), _normal), "bias": Parameter((self.classes,))}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (R, T, classes)."""
        return linear(hidden, parameters["weight"], parameters["bias"])

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (length, classes) of a row's (T, padded classes)."""
        return logits[:length, : self.classes]


class SpanHead(TokenHead):
    """A start and an end score at each position: (R, T, W) -> (R, T, 2)."""

    def __init__(self) -> None:
        super().__init__(2)


class SequenceHead(Head):
    """A linear map from the mean hidden state of a row to the classes: (R, T, W) -> (R, classes)."""

    grows = {"weight": 0, "bias": 0}

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep a weight (classes, W) and a bias (classes)."""
        return {"weight": Parameter((self.classes, width), _normal), "bias": Parameter((self.classes,))}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (R, classes) from the mean over the positions that the mask names."""
        kept = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        return linear(mean, parameters["weight"], parameters["bias"]).squeeze(1)

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (classes) of a row's (padded classes)."""
        return logits[: self.classes]


class LanguageModelHead(Head):
    """The frozen language model's own map to its vocabulary; nothing of it is trained."""

    reads = "decoder"
    over = "vocabulary"

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep nothing."""
        return {}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (R, T, V) that it is given."""
        return hidden

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (length, V) of a row's (T, V)."""
        return logits[:length]


class MaskedLanguageHead(Head):
    """BERT's head for masked tokens, with the frozen input embeddings as its last map: (R, T, W) -> (R, T, V).

    A dense layer, GELU and a layer norm (Devlin et al. 2019); what BERT adds as a bias of each token, the bias
    of the norm has to do here.
    """

    over = "embeddings"

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep the dense layer (W, W) with its bias (W), and scale and bias of the norm (W)."""
        return {
            "weight": Parameter((width, width), _normal),
            "bias": Parameter((width,)),
            "norm_weight": Parameter((width,), _ones),
            "norm_bias": Parameter((width,)),
        }

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tied, mask: Tensor) -> Tensor:
        """Return the logits (R, T, V)."""
        inner = functional.gelu(linear(hidden.states, parameters["weight"], parameters["bias"]))
        normed = functional.layer_norm(inner, inner.shape[-1:])
        found = normed * parameters["norm_weight"].unsqueeze(1) + parameters["norm_bias"].unsqueeze(1)
        return functional.linear(found.to(hidden.embeddings.dtype), hidden.embeddings).float()

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (length, V) of a row's (T, V)."""
        return logits[:length]


class EmbeddingHead(Head):
    """The mean hidden state of a row, as it is or through a trained projection: (R, T, W) -> (R, W or dimension)."""

    grows = {"weight": 0}

    def __init__(self, dimension: int | None = None) -> None:
        self.dimension = dimension

    @property
    def stack_key(self) -> Hashable:
        """Means and projections are different operations."""
        return type(self).__name__, self.dimension is None

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep the projection (dimension, W), which starts orthogonal: angles stay as near as they can."""
        return {} if self.dimension is None else {"weight": Parameter((self.dimension, width), _orthogonal)}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the vectors (R, W or dimension), not normalised, of the positions that the mask names."""
        kept = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        return (linear(mean, parameters["weight"]) if parameters else mean).squeeze(1)

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (W or dimension) of a row's (padded dimension)."""
        return logits[: self.dimension]


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)


def _orthogonal(tensor: Tensor, generator: torch.Generator) -> None:
    nn.init.orthogonal_(tensor, generator=generator)


def _ones(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(1.0)
