"""The heads that tasks share: a label a position, a label a row, a span, the next or a masked token, an embedding."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Head, Options, Parameter, Tied
from adaptdock.plugins.toolkit.activations import ACTIVATIONS, Activation
from adaptdock.plugins.toolkit.batched_linear import layer_norm, linear

Pooling = Literal["mean", "first", "last", "concat"]
VectorLength = Literal["plain", "unit"]


class LayeredOptions(Options):
    """Options of tasks whose head may have layers before its last map."""

    hidden_layers: tuple[Activation, ...] = ()
    """Layers before the last map, as wide as the backbone: the function after each, such as tanh."""


class PooledOptions(LayeredOptions):
    """Options of tasks whose head reads one vector of a text."""

    pooling: Pooling = "mean"
    """What the head reads: the mean of the states, the first, the last; concat: last, greatest and mean (ULMFiT)."""
    reads_prompt: int = Field(0, ge=0)
    """Positions of the adapter's own prompt that the head reads as if they were tokens of the text."""


class VocabularyOptions(LayeredOptions):
    """Options of tasks with a language model's head, for adapters that bring a map to the vocabulary of their own."""

    vocabulary: int = Field(0, ge=0)
    """Words of a map to the vocabulary that is trained; 0 leaves it to the frozen language model."""
    norms: bool = False
    """Layers before such a map are followed by layer norms."""
    states_scale: float = Field(1.0, gt=0)
    """Factor on the states that such a map reads."""

    def check_trained(self) -> None:
        """Raise :class:`UsageError` for a map to the vocabulary: such heads come from elsewhere, and write nothing."""
        if self.vocabulary:
            raise UsageError(
                "vocabulary: a map to the vocabulary of an adapter's own is imported, not trained; leave it out"
            )

    def language_head(self) -> "LanguageModelHead | VocabularyHead":
        """Return the frozen map, or one that is trained."""
        if not self.vocabulary:
            return LanguageModelHead()
        return VocabularyHead(self.vocabulary, self.hidden_layers, self.norms, self.states_scale)


class TokenHead(Head):
    """A linear map from each hidden state to the classes, after ``layers``: (R, T, W) -> (R, T, classes)."""

    grows = {"weight": 0, "bias": 0}

    def __init__(self, classes: int, layers: Sequence[Activation] = ()) -> None:
        self.classes, self.layers = classes, tuple(layers)

    @property
    def stack_key(self) -> Hashable:
        """Heads with other layers are other operations."""
        return type(self).__name__, self.layers

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep a weight (classes, W) and a bias (classes), and those of the layers before (W, W), (W)."""
        last = {"weight": Parameter((self.classes, width), _normal), "bias": Parameter((self.classes,))}
        return _layers(width, self.layers) | last

    def vectors(self, hidden: Tensor, mask: Tensor) -> Tensor | None:
        """Return the states (R, T, W) themselves."""
        return None if self.layers else hidden

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (R, T, classes)."""
        return linear(_through(parameters, hidden, self.layers), parameters["weight"], parameters["bias"])

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (length, classes) of a row's (T, padded classes)."""
        return logits[:length, : self.classes]


class SpanHead(TokenHead):
    """A start and an end score at each position: (R, T, W) -> (R, T, 2)."""

    def __init__(self) -> None:
        super().__init__(2)


class SequenceHead(Head):
    """A linear map from one vector of a row to the classes, after ``layers``: (R, T, W) -> (R, classes).

    The vector is the mean hidden state, the first or the last one or, as in ULMFiT (Howard and Ruder 2018, section
    3.3), the last one, the greatest value of each channel and the mean side by side (``concat``, 3 W). ``front``
    positions of the adapter's own prompt count as the text's. With the ``length`` unit each vector is divided by the
    root of its mean square, so that direction alone counts, as in the cosine that sentence encoders are trained by.
    """

    grows = {"weight": 0, "bias": 0}

    def __init__(
        self,
        classes: int,
        pooling: Pooling = "mean",
        layers: Sequence[Activation] = (),
        front: int = 0,
        length: VectorLength = "plain",
    ) -> None:
        self.classes, self.pooling, self.layers, self.front = classes, pooling, tuple(layers), front
        self.length = length

    @property
    def stack_key(self) -> Hashable:
        """Heads that pool otherwise, or have other layers, are other operations."""
        return type(self).__name__, self.pooling, self.layers, self.front, self.length

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep a weight (classes, W or 3 W) and a bias (classes), and those of the layers before, as wide."""
        inputs = 3 * width if self.pooling == "concat" else width
        last = {"weight": Parameter((self.classes, inputs), _normal), "bias": Parameter((self.classes,))}
        return _layers(inputs, self.layers) | last

    def vectors(self, hidden: Tensor, mask: Tensor) -> Tensor | None:
        """Return the pooled states (R, W or 3 W)."""
        return None if self.layers else self._pooled(hidden, mask).squeeze(1)

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        vectors = _pooled(hidden, functional.pad(mask, (self.front, 0), value=1), self.pooling)
        if self.length == "plain":
            return vectors
        return functional.normalize(vectors, dim=-1) * math.sqrt(vectors.shape[-1])

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (R, classes); positions that the mask does not name count for nothing."""
        read = _through(parameters, self._pooled(hidden, mask), self.layers)
        return linear(read, parameters["weight"], parameters["bias"]).squeeze(1)

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


class VocabularyHead(Head):
    """A trained map to the vocabulary after ``layers``, each with a layer norm if ``norms``: (R, T, W) -> (R, T, V).

    It has a weight (V, W) of its own; ``scale`` multiplies what it reads, as T5 does. Such heads are AdapterHub's.
    """

    reads = "decoder"

    def __init__(self, words: int, layers: Sequence[Activation] = (), norms: bool = False, scale: float = 1.0) -> None:
        self.words, self.layers, self.norms, self.scale = words, tuple(layers), norms, scale

    @property
    def stack_key(self) -> Hashable:
        """Heads with other layers are other operations."""
        return type(self).__name__, self.words, self.layers, self.norms, self.scale

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Keep a weight (V, W) and a bias (V); for each layer (W, W), (W), and scale, bias and epsilon of its norm."""
        kept = _layers(width, self.layers)
        for number in range(len(self.layers) if self.norms else 0):
            kept[f"norm{number}_weight"] = Parameter((width,), _ones)
            kept[f"norm{number}_bias"] = Parameter((width,))
            kept[f"norm{number}_epsilon"] = Parameter((1,), _epsilon, trained=False)
        return kept | {"weight": Parameter((self.words, width), _normal), "bias": Parameter((self.words,))}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (R, T, V)."""
        found = hidden * self.scale
        for number, name in enumerate(self.layers):
            found = _through(parameters, found, (name,), number)
            if self.norms:
                norm = (parameters[f"norm{number}_{part}"] for part in ("weight", "bias", "epsilon"))
                found = layer_norm(found, *norm)
        return linear(found, parameters["weight"], parameters["bias"])

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


def _pooled(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector (R, 1, W or 3 W) of each row."""
    if pooling == "first":
        return hidden[:, :1]
    if pooling == "last":
        last = mask.cumsum(1).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last].unsqueeze(1)
    return mean_state(hidden, mask) if pooling == "mean" else _concatenated(hidden, mask)


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


def _layers(width: int, layers: Sequence[Activation]) -> dict[str, Parameter]:
    """Declare the layers before the last map."""
    kept = {}
    for number in range(len(layers)):
        kept[f"hidden{number}_weight"] = Parameter((width, width), _normal)
        kept[f"hidden{number}_bias"] = Parameter((width,))
    return kept


def _through(parameters: Mapping[str, Tensor], states: Tensor, layers: Sequence[Activation], first: int = 0) -> Tensor:
    """Return states (R, T, W) after the layers before the last map."""
    for number, name in enumerate(layers, first):
        mapped = linear(states, parameters[f"hidden{number}_weight"], parameters[f"hidden{number}_bias"])
        states = ACTIVATIONS[name](mapped)
    return states


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)


def _orthogonal(tensor: Tensor, generator: torch.Generator) -> None:
    nn.init.orthogonal_(tensor, generator=generator)


def _ones(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(1.0)


def _epsilon(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(1e-5)
