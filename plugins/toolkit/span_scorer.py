"""A head that scores every span of words up to a length, so that spans may overlap and contain each other.

The score of the words i to i + k for class c, with the state s of the first and e of the last word:
w_c . gelu(A s_i + B e_(i+k) + v_k + b) + d_c: a hidden layer over first word, last word and length (Lee et al. 2017,
arXiv:1707.07045, without the attention; Eberts and Ulges 2019, arXiv:1909.07755). d starts at the log odds of 1 %, as
nearly all spans have no label (Lin et al. 2017, arXiv:1708.02002, section 3.3).

A linear map of both states and the length, such as a regression fitted on frozen states, is a head of this kind: a pair
of units carries each of its rows, as gelu(z) - gelu(-z) = z.

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
SPARSENESS = 7
"""One in so many spans without a label is a candidate for a fit: (row + 3 first + 5 more words) % 7 is 0. So each first
word and each length has the same share, and rows of the same form have others."""


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

    def candidates(self, hidden: Any, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return vectors (S, 2 W + K), labels (S, C) and rows (S) of labelled spans, and of a seventh of the others.

        A vector has the states of the first and of the last word, and the root of W at the place of its length: such a
        length is as large as the states. ``labels`` (R, 1 + 3 L) has the number of words, and first word, further words
        and class of each labelled span, padded with negative numbers.
        """
        states, inputs = hidden.hidden, hidden.inputs
        targets = span_targets(labels, (inputs["firsts"].shape[1], self.lengths, self.classes))
        number, place, more = (torch.arange(size, device=labels.device) for size in targets.shape[:3])
        is_inside = place.unsqueeze(1) + more < labels[:, 0, None, None]  # (R, N, K)
        is_drawn = (number[:, None, None] + 3 * place.unsqueeze(1) + 5 * more) % SPARSENESS == 0  # (R, N, K)
        row, first, further = (is_inside & (is_drawn | targets.any(-1))).nonzero(as_tuple=True)
        begin = states[row, inputs["firsts"][row, first]]
        end = states[row, inputs["lasts"][row, first + further]]
        sizes = functional.one_hot(further, self.lengths) * math.sqrt(states.shape[-1])
        return torch.cat([begin, end, sizes.to(states.dtype)], dim=1), targets[row, first, further].long(), row

    def of_linear(self, weight: Tensor, bias: Tensor, seed: int) -> dict[str, Tensor]:
        """Return the parameters of a head with the scores ``weight`` (C, 2 W + K) times the vectors, plus ``bias`` (C).

        With more classes than pairs of units the map is the nearest one of that rank, by its singular values. The other
        units are random, and have no effect until they are trained.
        """
        width = (weight.shape[1] - self.lengths) // 2
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, parameter in self.parameters(width).items():
            tensors[name] = torch.zeros(parameter.shape)
            if parameter.start is not None:
                parameter.start(tensors[name], generator)
        rank = min(self.classes, self.units // 2)
        outer, inner = torch.eye(self.classes), weight
        if rank < self.classes:
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
            outer, inner = left[:, :rank] * values[:rank], right[:rank]
        begin, end, sizes = torch.split(torch.cat([inner, -inner]), [width, width, self.lengths], dim=1)
        tensors["first"][: 2 * rank], tensors["last"][: 2 * rank] = begin, end
        tensors["length"][:, : 2 * rank] = math.sqrt(width) * sizes.T
        tensors["weight"].zero_()
        tensors["weight"][:, :rank], tensors["weight"][:, rank : 2 * rank] = outer, -outer
        return {**tensors, "bias": bias}

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (length, K, C) of a row's (N, padded K, padded C), zeros behind its words.

        A row has no more words than positions, so its shape does not depend on other rows of the batch.
        """
        scores = logits[:length, : self.lengths, : self.classes]
        return functional.pad(scores, (0, 0, 0, 0, 0, length - len(scores)))


def span_targets(labels: Tensor, sizes: tuple[int, int, int]) -> Tensor:
    """Return whether each span has each class (R, N, K, C), for ``sizes`` (N, K, C).

    ``labels`` (R, 1 + 3 L) are as in :meth:`SpanScorer.candidates`.
    """
    rows = len(labels)
    spans = labels[:, 1:].reshape(rows, labels.shape[1] // 3, 3)
    row = torch.arange(rows, device=labels.device).unsqueeze(1).expand(spans.shape[:2])
    counts = torch.zeros(rows, *sizes, device=labels.device)
    is_span = (spans[..., 0] >= 0).to(counts.dtype)
    counts.index_put_((row, *spans.clamp(min=0).unbind(-1)), is_span, accumulate=True)
    return counts > 0


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
