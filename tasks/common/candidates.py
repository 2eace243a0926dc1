"""Candidates of a record: windows for each, the best window's score, and losses over the candidates of a record.

Each window of a candidate has the labels (record, candidate, relevance). The score of a candidate is that of its best
window, as in MaxP (Dai and Callan 2019, arXiv:1905.09217). Letters of shapes: R windows of a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Feature, Reading
from adaptdock.plugins.toolkit.windowing import halved, windows

MOST = 1000
"""Most candidates of an input of ``predict``."""


def candidate_windows(pairs: Sequence[tuple[str, str]], reading: Reading) -> list[Feature]:
    """Return the windows of pairs of texts, one pair for each candidate; ``alignment`` is the candidate's number.

    A first text of several pairs is cut to half of a window once, so that a long query is tokenised once.
    """
    features: list[Feature] = []
    cuts: dict[str, tuple[str, int]] = {}
    for number, (first, second) in enumerate(pairs):
        is_new = first not in cuts
        text, cut = cuts.setdefault(first, halved(first, reading)) if is_new else cuts[first]
        of_pair = windows(text, second, reading)
        for feature in of_pair:
            feature.alignment = number
        if is_new:
            of_pair[0].cut = cut
        features += of_pair
    return features


def label_windows(features: Sequence[Feature], record: int, relevance: Sequence[int]) -> None:
    """Label windows with the number of their record, of their candidate, and the candidate's relevance."""
    for feature in features:
        feature.labels = [record, feature.alignment, relevance[feature.alignment]]


def candidate_scores(count: int, features: Sequence[Feature], digests: Sequence[Tensor]) -> Tensor:
    """Return the score of each candidate (count), from the logits (1) of each window."""
    scores = torch.full((count,), -torch.inf)
    for feature, digest in zip(features, digests, strict=True):
        scores[feature.alignment] = torch.maximum(scores[feature.alignment], digest.float().squeeze(-1))
    return scores


class CandidateBatch:
    """The candidates of a batch: masks over its windows, without a transfer from the device of the scores.

    ``scores`` (R) is for each window the score of its candidate, ``first`` (R) marks one window of each candidate, and
    ``relevance`` (R) is that of the candidate, as a float.
    """

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        """``logits`` (R, 1), ``labels`` (R, 3)."""
        record, candidate, relevance = labels.unbind(1)
        self.same_record = record.unsqueeze(1) == record  # (R, R)
        same_candidate = self.same_record & (candidate.unsqueeze(1) == candidate)
        numbers = torch.arange(len(labels), device=labels.device)
        self.first = same_candidate.int().argmax(1) == numbers
        windows_of_candidate = logits.squeeze(-1).unsqueeze(0).masked_fill(~same_candidate, -torch.inf)
        self.scores = windows_of_candidate.amax(1)
        self.relevance = relevance.to(self.scores.dtype)

    def softmax_loss(self) -> Tensor:
        """Return the mean over records of the cross entropy between the shares of relevance and the softmax of scores.

        This is ListNet's loss for the first rank (Cao et al. 2007). A record without a relevant candidate counts as
        nothing.
        """
        of_record = self.same_record & self.first
        total = self.scores.unsqueeze(0).masked_fill(~of_record, -torch.inf).logsumexp(1)
        gains = self.relevance * self.first
        shares = gains / (gains * self.same_record).sum(1).clamp(min=1.0)
        return (shares * (total - self.scores)).sum() / shares.sum().clamp(min=1.0)

    def binary_loss(self) -> Tensor:
        """Return the mean over candidates of the binary cross entropy: relevant or not."""
        targets = (self.relevance > 0).to(self.scores.dtype)
        losses = functional.binary_cross_entropy_with_logits(self.scores, targets, reduction="none")
        return (losses * self.first).sum() / self.first.sum()


def check_count(count: int, name: str) -> None:
    """Raise :class:`DataError` for an input with more candidates than are read, each in a window with the question."""
    if count > MOST:
        raise DataError(f"an input has at most {MOST:,} {name}; found {count:,}")


def fields_of(item: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return the fields of an object by the column names of known data sets; a field's own name comes first."""
    fields = {}
    for name, accepted in columns.items():
        column = next((column for column in (name, *accepted) if item.get(column) is not None), None)
        if column is not None:
            fields[name] = item[column]
    return fields
