"""The heads that tasks share: one label a position, one label a row, a span, the next token."""

from collections.abc import Mapping

import torch
from torch import Tensor

from adaptdock.plugins.contracts import Head, Parameter
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


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)
