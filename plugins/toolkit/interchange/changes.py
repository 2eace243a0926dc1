"""Changes of a backbone's weights that another library made, for methods to store exactly.

A change of a linear layer is the difference of weight (outputs, inputs) and bias (outputs). At a norm, ``weight`` (W)
is the relative change g of the output and ``bias`` (W) the shift s: ``(1 + g) * out + s``. At the input embeddings,
``weight`` is the difference of the table (V, W).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from adaptdock.plugins.ports import Port

LARGEST_RANK = 256
"""Largest rank of a change that is searched for."""
FIRST_GUESS = 16
"""First number of random directions of the search."""
EXACT = 1e-6
"""Largest relative difference of a product of factors from the change that it replaces."""


@dataclass(frozen=True, eq=False)
class WeightChange:
    """The change at a port; ``weight`` and ``bias`` are float64, and None if unchanged."""

    port: Port
    weight: Tensor | None
    bias: Tensor | None

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor] | None:
        """The factors (outputs, rank) and (rank, inputs) of the smallest rank, in float32.

        None if there is no weight change, or none of a rank that is worth it.
        """
        return None if self.weight is None else low_rank(self.weight)


def low_rank(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return float32 factors with an exact product, of the smallest rank up to :data:`LARGEST_RANK`, or None.

    The range of the matrix is found with random directions (Halko et al. 2011, arXiv:0909.4061), so the cost is that
    of a few matrix products, not of a singular value decomposition.
    """
    generator = torch.Generator().manual_seed(0)
    limit = EXACT * matrix.norm()
    worth = matrix.shape[0] * matrix.shape[1] // (matrix.shape[0] + matrix.shape[1])
    directions = FIRST_GUESS
    while True:
        directions = min(directions, *matrix.shape)
        random = torch.randn(matrix.shape[1], directions, generator=generator, dtype=matrix.dtype)
        basis = torch.linalg.qr(matrix @ random).Q
        inner = basis.mT @ matrix
        if (matrix - basis @ inner).norm() <= limit or directions == min(matrix.shape):
            break
        if directions > min(LARGEST_RANK, worth):
            return None
        directions *= 4
    left, values, right = torch.linalg.svd(inner, full_matrices=False)
    rest = values.square().flip(0).cumsum(0).flip(0).sqrt()  # the norm of what a cut before each value leaves out
    rank = max(int((rest > limit).sum()), 1)
    if rank > min(LARGEST_RANK, worth):
        return None
    root = values[:rank].sqrt()
    return (basis @ left[:, :rank] * root).float(), (root.unsqueeze(1) * right[:rank]).float()
