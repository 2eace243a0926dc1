"""The common heads of tasks: labels of positions or rows, spans, next or masked tokens, embeddings."""

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
    """Options of tasks whose head may have hidden layers."""

    hidden_layers: tuple[Activation, ...] = ()
    """Hidden layers, as wide as the backbone: the activation function of each, such as tanh."""
    norms: bool = False
    """Layer norms after the hidden layers."""


class PooledOptions(LayeredOptions):
    """Options of tasks whose head reads one vector per text."""

    pooling: Pooling = "mean"
    """Input of the head: the mean, first or last hidden state; concat: last, maximum and mean (ULMFiT)."""
    reads_prompt: int = Field(0, ge=0)
    """Positions of the adapter's own prompt that the head reads like tokens of the text."""

    def score_head(self) -> "SequenceHead":
        """Return a head of these options with one score."""
        return SequenceHead(1, self.pooling, self.hidden_layers, self.reads_prompt, norms=self.norms)


class VocabularyOptions(LayeredOptions):
    """Options of tasks with an LM head, for imported adapters with an LM head of their own."""

    vocabulary: int = Field(0, ge=0)
    """Vocabulary size of an LM head of the adapter's own; 0 uses the frozen LM head."""
    states_scale: float = Field(1.0, gt=0)
    """Factor on the hidden states that such a head reads."""

    def check_trained(self) -> None:
        """Raise :class:`UsageError` for an LM head of the adapter's own, which can be imported but not trained."""
        if self.vocabulary:
            raise UsageError(
                "vocabulary: an LM head of the adapter's own is imported, not trained; leave the option out"
            )

    def language_head(self) -> "LanguageModelHead | VocabularyHead":
        """Return the frozen LM head, or one of the adapter's own."""
        if not self.vocabulary:
            return LanguageModelHead()
        return VocabularyHead(self.vocabulary, self.hidden_layers, self.norms, self.states_scale)


class TokenHead(Head):
    """A linear layer from each hidden state to the classes, after ``layers``: (R, T, W) -> (R, T, classes).

    With ``norms`` a layer norm follows each of the layers.
    """

    grows = {"weight": 0, "bias": 0}

    def __init__(self, classes: int, layers: Sequence[Activation] = (), norms: bool = False) -> None:
        self.classes, self.layers, self.norms = classes, tuple(layers), norms

    @property
    def stack_key(self) -> Hashable:
        """The activation functions and norms, which cannot differ within one operation."""
        return type(self).__name__, self.layers, self.norms

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare weight (classes, W) and bias (classes), and those of the hidden layers (W, W), (W)."""
        last = {"weight": Parameter((self.classes, width), _normal), "bias": Parameter((self.classes,))}
        return _layers(width, self.layers, self.norms) | last

    def vectors(self, hidden: Tensor, mask: Tensor) -> Tensor | None:
        """Return the states (R, T, W) themselves."""
        return None if self.layers else hidden

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (R, T, classes)."""
        read = _through(parameters, hidden, self.layers, self.norms)
        return linear(read, parameters["weight"], parameters["bias"])

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (length, classes) of a row's (T, padded classes)."""
        return logits[:length, : self.classes]


class SpanHead(TokenHead):
    """A start and an end score at each position: (R, T, W) -> (R, T, 2)."""

    def __init__(self) -> None:
        super().__init__(2)


class SequenceHead(Head):
    """A linear layer from one vector per row to the classes, after ``layers``: (R, T, W) -> (R, classes).

    The vector is the mean, first or last hidden state. With ``concat`` it is the last state, the maximum of each
    channel and the mean side by side (3 W), as in ULMFiT (Howard and Ruder 2018, section 3.3). ``front`` positions of
    the adapter's own prompt count as positions of the text.
    With the ``length`` unit each vector is divided by the root of its mean square: its direction alone counts, as in
    the cosine that sentence encoders are trained by. With ``norms`` a layer norm follows each of the layers.
    """

    grows = {"weight": 0, "bias": 0}

    def __init__(
        self,
        classes: int,
        pooling: Pooling = "mean",
        layers: Sequence[Activation] = (),
        front: int = 0,
        length: VectorLength = "plain",
        norms: bool = False,
    ) -> None:
        self.classes, self.pooling, self.layers, self.front = classes, pooling, tuple(layers), front
        self.length, self.norms = length, norms

    @property
    def stack_key(self) -> Hashable:
        """The pooling, activation functions, norms and prompt positions, which cannot differ within one operation."""
        return type(self).__name__, self.pooling, self.layers, self.front, self.length, self.norms

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare weight (classes, W or 3 W) and bias (classes), and those of the hidden layers, of equal width."""
        inputs = 3 * width if self.pooling == "concat" else width
        last = {"weight": Parameter((self.classes, inputs), _normal), "bias": Parameter((self.classes,))}
        return _layers(inputs, self.layers, self.norms) | last

    def vectors(self, hidden: Tensor, mask: Tensor) -> Tensor | None:
        """Return the pooled states (R, W or 3 W)."""
        return None if self.layers else self._pooled(hidden, mask).squeeze(1)

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        vectors = _pooled(hidden, functional.pad(mask, (self.front, 0), value=1), self.pooling)
        if self.length == "plain":
            return vectors
        return functional.normalize(vectors, dim=-1) * math.sqrt(vectors.shape[-1])

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (R, classes), without the masked positions."""
        read = _through(parameters, self._pooled(hidden, mask), self.layers, self.norms)
        return linear(read, parameters["weight"], parameters["bias"]).squeeze(1)

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (classes) of a row's (padded classes)."""
        return logits[: self.classes]


class LanguageModelHead(Head):
    """The frozen LM head of the language model, without trained parameters."""

    reads = "decoder"
    over = "vocabulary"

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare no parameters."""
        return {}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (R, T, V) unchanged."""
        return hidden

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (length, V) of a row's (T, V)."""
        return logits[:length]


class VocabularyHead(Head):
    """An LM head of the adapter's own, after ``layers``, each with a layer norm if ``norms``: (R, T, W) -> (R, T, V).

    It has its own weight (V, W); ``scale`` multiplies its input, as in T5. Such heads come from AdapterHub.
    """

    reads = "decoder"

    def __init__(self, words: int, layers: Sequence[Activation] = (), norms: bool = False, scale: float = 1.0) -> None:
        self.words, self.layers, self.norms, self.scale = words, tuple(layers), norms, scale

    @property
    def stack_key(self) -> Hashable:
        """The vocabulary size, layers, norms and scale, which cannot differ within one operation."""
        return type(self).__name__, self.words, self.layers, self.norms, self.scale

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare weight (V, W), bias (V), and for each layer (W, W), (W), and scale, bias and epsilon of its norm."""
        declared = _layers(width, self.layers, self.norms)
        return declared | {"weight": Parameter((self.words, width), _normal), "bias": Parameter((self.words,))}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits (R, T, V)."""
        states = _through(parameters, hidden * self.scale, self.layers, self.norms)
        return linear(states, parameters["weight"], parameters["bias"])

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (length, V) of a row's (T, V)."""
        return logits[:length]


class MaskedLanguageHead(Head):
    """BERT's head for masked tokens, with the frozen input embeddings as last layer: (R, T, W) -> (R, T, V).

    A dense layer, GELU and a layer norm (Devlin et al. 2019). BERT's bias per token is missing; the bias of the norm
    has to replace it.
    """

    over = "embeddings"

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare the dense layer (W, W) with its bias (W), and scale and bias of the norm (W)."""
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
        scaled = normed * parameters["norm_weight"].unsqueeze(1) + parameters["norm_bias"].unsqueeze(1)
        return functional.linear(scaled.to(hidden.embeddings.dtype), hidden.embeddings).float()

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
        """Whether there is a projection, which is another operation."""
        return type(self).__name__, self.dimension is None

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare the projection (dimension, W), which starts orthogonal, to preserve angles as far as possible."""
        return {} if self.dimension is None else {"weight": Parameter((self.dimension, width), _orthogonal)}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the mean vectors (R, W or dimension) of the unmasked positions, not normalised."""
        mean = mean_state(hidden, mask)
        return (linear(mean, parameters["weight"]) if parameters else mean).squeeze(1)

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (W or dimension) of a row's (padded dimension)."""
        return logits[: self.dimension]


def _pooled(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector (R, 1, W or 3 W) per row."""
    if pooling == "first":
        return hidden[:, :1]
    if pooling == "last":
        last = mask.cumsum(1).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last].unsqueeze(1)
    return mean_state(hidden, mask) if pooling == "mean" else _concatenated(hidden, mask)


def mean_state(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (R, 1, W) of the hidden states (R, T, W) at the unmasked positions (R, T)."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)


def _concatenated(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return last state, maximum of each channel and mean (R, 1, 3 W) of the unmasked positions."""
    places = torch.arange(hidden.shape[1], device=hidden.device)
    last = (mask * places).argmax(1)
    last_state = hidden[torch.arange(len(hidden), device=hidden.device), last].unsqueeze(1)
    greatest = hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1, keepdim=True)
    return torch.cat([last_state, greatest, mean_state(hidden, mask)], dim=-1)


def _layers(width: int, layers: Sequence[Activation], norms: bool) -> dict[str, Parameter]:
    """Declare weights and biases of the hidden layers, and weight, bias and epsilon of their norms."""
    declared = {}
    for number in range(len(layers)):
        declared[f"hidden{number}_weight"] = Parameter((width, width), _normal)
        declared[f"hidden{number}_bias"] = Parameter((width,))
    for number in range(len(layers) if norms else 0):
        declared[f"norm{number}_weight"] = Parameter((width,), _ones)
        declared[f"norm{number}_bias"] = Parameter((width,))
        declared[f"norm{number}_epsilon"] = Parameter((1,), _epsilon, trained=False)
    return declared


def _through(parameters: Mapping[str, Tensor], states: Tensor, layers: Sequence[Activation], norms: bool) -> Tensor:
    """Return states (R, T, W) after the hidden layers and their norms."""
    for number, name in enumerate(layers):
        mapped = linear(states, parameters[f"hidden{number}_weight"], parameters[f"hidden{number}_bias"])
        states = ACTIVATIONS[name](mapped)
        if norms:
            norm = (parameters[f"norm{number}_{part}"] for part in ("weight", "bias", "epsilon"))
            states = layer_norm(states, *norm)
    return states


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)


def _orthogonal(tensor: Tensor, generator: torch.Generator) -> None:
    nn.init.orthogonal_(tensor, generator=generator)


def _ones(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(1.0)


def _epsilon(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(1e-5)
