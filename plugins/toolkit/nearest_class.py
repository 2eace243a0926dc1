"""A pooled head that also measures how near a text is to the training texts of a class."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.plugins.contracts import Parameter
from adaptdock.plugins.toolkit.heads import SequenceHead

FURTHEST = -1.0
"""The least cosine."""


class NearestClassHead(SequenceHead):
    """A :class:`SequenceHead` with a last output more: (R, T, W) -> (R, classes + 1).

    It is the greatest cosine between the vector of a row and the mean vector of a class, both without the mean of all
    vectors (a nearest class mean, as in Lee et al. 2018, arXiv:1807.03888, without the covariance).
    """

    grows = {"weight": 0, "bias": 0, "centres": 0}

    def parameters(self, width: int) -> dict[str, Parameter]:
        """Declare also ``centres`` (classes, W), of length 1, and ``origin`` (W), the mean of all vectors."""
        declared = super().parameters(width)
        inputs = declared["weight"].shape[-1]
        centres = {"centres": Parameter((self.classes, inputs), trained=False)}
        return declared | centres | {"origin": Parameter((inputs,), trained=False)}

    def apply(self, parameters: Mapping[str, Tensor], hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits and similarity (R, classes + 1)."""
        logits = super().apply(parameters, hidden, mask)
        centres = parameters["centres"].float()
        offsets = self._pooled(hidden, mask) - parameters["origin"].float().unsqueeze(1)
        cosines = (functional.normalize(offsets, dim=-1) * centres).sum(-1)  # (R, classes)
        is_padding = centres.square().sum(-1) == 0
        nearest = cosines.masked_fill(is_padding, FURTHEST).amax(-1, keepdim=True)
        return torch.cat([logits, nearest], dim=-1)

    def trim(self, logits: Tensor, length: int) -> Tensor:
        """Return (classes + 1) of a row's (padded classes + 1)."""
        return torch.cat([logits[: self.classes], logits[-1:]])


def class_centres(vectors: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Return the additional tensors of a :class:`NearestClassHead`, from vectors (N, W) and their classes (N).

    A class without a vector has a centre of zeros, which is never the nearest.
    """
    origin = vectors.mean(0)
    sums = torch.zeros(classes, vectors.shape[1]).index_add_(0, labels, vectors - origin)
    return {"centres": functional.normalize(sums, dim=-1), "origin": origin}
