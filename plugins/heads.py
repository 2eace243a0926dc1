"""The heads that tasks share: a label a position, a label a row, a span, the next or a masked token, an embedding."""

from collections.abc import Hashable, Mapping
from typing import Literal

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


Pooling = Literal["mean", "concat"]


class SequenceHead(Head):
    """A linear map from one vector for a row to the classes: (R, T, W) -> (R, classes).

    The vector is the mean hidden state or, as in ULMFiT (Howard and Ruder 2018, section 3.3), the last one, the
    greatest value of each channel and the mean side by side (``concat``, 3 W).
    """

    grows = {"weight": 0, "bias": 0}

    def __init__(self, classes: int, pooling: Pooling = "mean") -> None:
        self.classes, self.pooling = classes, pooling

    @property
    def stack_key(self) -> Hashable:
        """What is pooled differently has weights of another width."""
        return type(self).__name__, self.pooling

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep a weight (classes, W or 3 W) and a bias (classes)."""
        inputs = 3 * width if self.pooling == "concat" else width
        return {"weight": Parameter((self.classes, inputs), _normal), "bias": Parameter((self.classes,))}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (R, classes) from the positions that the mask names."""
        pooled = mean_state(hidden, mask) if self.pooling == "mean" else _concatenated(hidden, mask)
        return linear(pooled, parameters["weight"], parameters["bias"]).squeeze(1)

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
        mean = mean_state(hidden, mask)
        return (linear(mean, parameters["weight"]) if parameters else mean).squeeze(1)

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (W or dimension) of a row's (padded dimension)."""
        return logits[: self.dimension]


def mean_state(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (R, 1, W) of the hidden states (R, T, W) at the positions that the mask (R, T) names."""
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)


def _concatenated(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the last state, the greatest value of each channel and the mean (R, 1, 3 W) of the positions named."""
    places = torch.arange(hidden.shape[1], device=hidden.device)
    last = (mask * places).argmax(1)
    last_state = hidden[torch.arange(len(hidden), device=hidden.device), last].unsqueeze(1)
    greatest = hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1, keepdim=True)
    return torch.cat([last_state, greatest, mean_state(hidden, mask)], dim=-1)


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)


def _orthogonal(tensor: Tensor, generator: torch.Generator) -> None:
    nn.init.orthogonal_(tensor, generator=generator)


def _ones(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(1.0)
