"""A head that scores every span of words up to a length, so that spans may overlap and contain each other.

The score of the words i to i + k for class c, with the state s of the first and e of the last word:
w_c . gelu(A s_i + B e_(i+k) + v_k + b) + d_c: a hidden layer over first word, last word and length (Lee et al. 2017,
arXiv:1707.07045, without the attention; Eberts and Ulges 2019, arXiv:1909.07755). d starts at the log odds of 1 %, as
nearly all spans have no label (Lin et al. 2017, arXiv:1708.02002, section 3.3).

Letters of shapes: R rows, T positions, W the width of the states, N words, K lengths, D units, C classes.
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.plugins.contracts import Head, Parameter
from adaptdock.plugins.toolkit.batched_linear import linear

ABSENT = -1
"""The position of a word that pads a row."""
RARE = 0.01


class SpanScorer(Head):
    """Scores of all spans: (R, T, W) -> (R, N, K, C), by first word and length; 0 for spans past the last word.

    The row inputs ``firsts`` and ``lasts`` (R, N) are the positions of each word's first and last token.
    """

    row_inputs = {"firsts": ABSENT, "lasts": ABSENT}
    grows = {"length": 0, "weight": 0, "bias": 0}

    def __init__(self, classes: int, lengths: int, units: int) -> None:
        self.classes, self.lengths, self.units = classes, lengths, units

    @property
    def stack_key(self) -> Hashable:
        """The number of hidden units, which cannot differ within one operation."""
        return type(self).__name__, self.units

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare first and last (D, W), hidden_bias (D), length (K, D), weight (C, D) and bias (C)."""
        return {
            "first": Parameter((self.units, width), _scaled),
            "last": Parameter((self.units, width), _scaled),
            "hidden_bias": Parameter((self.units,)),
            "length": Parameter((self.lengths, self.units), _normal),
            "weight": Parameter((self.classes, self.units), _normal),
            "bias": Parameter((self.classes,), _rare),
        }

    def apply(self, parameters: Mapping[str, Tensor], hidden: Any, mask: Tensor) -> Tensor:
        """Return logits (R, N, K, C), with N of the longest row; ``hidden`` is :class:`WithRowInputs`."""
        firsts, lasts = hidden.inputs["firsts"], hidden.inputs["lasts"]
        lengths = parameters["length"].shape[1]
        begin = linear(_at(hidden.hidden, firsts), parameters["first"], parameters["hidden_bias"])  # (R, N, D)
        end = linear(_at(hidden.hidden, lasts), parameters["last"])
        ends = functional.pad(end, (0, 0, 0, lengths - 1)).unfold(1, lengths, 1).transpose(2, 3)  # (R, N, K, D)
        inner = functional.gelu(begin.unsqueeze(2) + ends + parameters["length"].unsqueeze(1))
        flat: Tensor = linear(inner.flatten(1, 2), parameters["weight"], parameters["bias"])  # (R, N K, C)
        scores = flat.reshape(*inner.shape[:3], -1)
        words = functional.pad((lasts != ABSENT).int(), (0, lengths - 1)).unfold(1, lengths, 1)  # (R, N, K)
        return scores * words.unsqueeze(-1).to(scores.dtype)

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (length, K, C) of a row's (N, padded K, padded C), zeros behind its words.

        A row has no more words than positions, so its shape does not depend on other rows of the batch.
        """
        scores = logits[:length, : self.lengths, : self.classes]
        return functional.pad(scores, (0, 0, 0, 0, 0, length - len(scores)))


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """Return the states (R, N, W) at positions (R, N)."""
    index = positions.clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[-1])
    return states.gather(1, index)


def _normal(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=0.02, generator=generator)


def _scaled(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(std=tensor.shape[1] ** -0.5, generator=generator)


def _rare(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.fill_(math.log(RARE / (1 - RARE)))
