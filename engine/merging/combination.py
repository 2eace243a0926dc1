"""How the low-rank updates of several adapters at one place become one.

``linear`` and ``svd`` work on the factors; the others prune each update as a whole matrix, as PEFT does
(TIES: Yadav et al. 2023, arXiv:2306.01708; DARE: Yu et al. 2023, arXiv:2311.03099), and compress the result.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Options

Factors = tuple[Tensor, Tensor]
"""up (outputs, rank), down (rank, inputs)."""
Combiner = Callable[[Sequence[float], Sequence[Factors]], Factors]
"""Makes one update of weighted ones."""
RANDOM = ("dare_linear", "dare_ties")


class CombineOptions(Options):
    """How adapters are combined."""

    how: Literal["linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"] = "linear"
    """linear: the exact sum, which has the sum of the ranks; svd: the same, compressed to --rank; the others
    prune each update before they add them."""
    rank: int | None = Field(None, gt=0)
    """Rank of the result, except of linear; the largest of the adapters' unless given."""
    density: float | None = Field(None, gt=0, lt=1)
    """Share of each update that pruning keeps."""
    seed: int | None = None
    """Seed of what dare drops; 0 unless given."""
    store: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the weights in the file."""

    @property
    def prunes(self) -> bool:
        """Whether updates are pruned, whole, before they are added."""
        return self.how not in ("linear", "svd")


def check_options(options: CombineOptions) -> None:
    """Raise :class:`UsageError` for options that do not go together, or need what is not installed."""
    how = options.how
    if how == "linear" and options.rank is not None:
        raise UsageError("--how linear keeps every rank, so --rank has no place; --how svd compresses to it")
    if options.prunes and options.density is None:
        raise UsageError(f"--how {how} prunes: say with --density which share of each update it keeps, such as 0.5")
    if not options.prunes and options.density is not None:
        raise UsageError(f"--how {how} does not prune, so --density has no place; ties or magnitude_prune do")
    if how not in RANDOM and options.seed is not None:
        raise UsageError(f"--how {how} drops nothing at random, so --seed has no place")
    if options.prunes and find_spec("peft") is None:
        raise UsageError(f"--how {how} needs the library peft: pip install peft")


def combiner(options: CombineOptions, rank: int) -> Combiner:
    """Return what makes one update of rank ``rank``, padded with zeros, of weighted ones.

    What dare drops depends on the seed and on the order of the calls.
    """
    generator = torch.Generator().manual_seed(options.seed or 0)

    def combine(weights: Sequence[float], updates: Sequence[Factors]) -> Factors:
        if options.prunes:
            return padded(*compressed(_pruned(options, weights, updates, generator), rank), rank)
        up = torch.cat([up * weight for weight, (up, _) in zip(weights, updates, strict=True)], dim=1)
        down = torch.cat([down for _, down in updates])
        return padded(*((up, down) if options.how == "linear" else compressed_product(up, down, rank)), rank)

    return combine


def compressed(update: Tensor, rank: int) -> Factors:
    """Return the factors of rank ``rank`` closest to a matrix (outputs, inputs), evenly scaled."""
    left, values, right = torch.linalg.svd(update, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root.unsqueeze(1) * right[:rank]


def compressed_product(up: Tensor, down: Tensor, rank: int) -> Factors:
    """Return the factors of rank ``rank`` closest to a product, which itself is never computed."""
    left, inner_left = torch.linalg.qr(up.double())
    right, inner_right = torch.linalg.qr(down.double().T)
    short_up, short_down = compressed(inner_left @ inner_right.T, rank)
    return (left @ short_up).to(up.dtype), (short_down @ right.T).to(down.dtype)


def padded(up: Tensor, down: Tensor, rank: int) -> Factors:
    """Return factors with zeros up to a rank."""
    missing = rank - up.shape[1]
    return functional.pad(up, (0, missing)), functional.pad(down, (0, 0, 0, missing))


def _pruned(
    options: CombineOptions, weights: Sequence[float], updates: Sequence[Factors], generator: torch.Generator
) -> Tensor:
    """Return what PEFT makes of whole updates; it draws from torch's own generator, which is put back."""
    function: Any = getattr(import_module("peft.utils.merge_utils"), options.how)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        found: Tensor = function([up @ down for up, down in updates], torch.tensor(weights), options.density)
        generator.set_state(torch.get_rng_state())
    return found
