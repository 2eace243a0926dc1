"""Combining the low-rank updates of several adapters at one port into one update.

``linear`` and ``svd`` work on the factors; the other ways prune each update as a whole matrix, as PEFT does
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
"""Combines weighted updates into one."""
RANDOM = ("dare_linear", "dare_ties")


class CombineOptions(Options):
    """How adapters are combined."""

    how: Literal["linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"] = "linear"
    """linear: the exact sum, whose rank is the sum of the ranks; svd: the sum compressed to --rank; the other ways
    prune each update before the sum."""
    rank: int | None = Field(None, gt=0)
    """Rank of the result, not for linear; the largest rank of the adapters unless given."""
    density: float | None = Field(None, gt=0, lt=1)
    """Share of each update that pruning keeps."""
    seed: int | None = None
    """Seed of the random drops of dare; 0 unless given."""
    store: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the weights in the file."""

    @property
    def prunes(self) -> bool:
        """Whether updates are pruned as whole matrices before the sum."""
        return self.how not in ("linear", "svd")


def check_options(options: CombineOptions) -> None:
    """Raise :class:`UsageError` for options that contradict each other, or need a missing library."""
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
    """Return a function that combines weighted updates into one of rank ``rank``, padded with zeros.

    The random drops of dare depend on the seed and on the order of the calls.
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
    """Return the factors of rank ``rank`` closest to a product, without computing the product itself."""
    left, inner_left = torch.linalg.qr(up.double())
    right, inner_right = torch.linalg.qr(down.double().T)
    short_up, short_down = compressed(inner_left @ inner_right.T, rank)
    return (left @ short_up).to(up.dtype), (short_down @ right.T).to(down.dtype)


def padded(up: Tensor, down: Tensor, rank: int) -> Factors:
    """Return factors of a larger rank, padded with zeros, whose product is the same."""
    padding = rank - up.shape[1]
    return functional.pad(up, (0, padding)), functional.pad(down, (0, 0, 0, padding))


def _pruned(
    options: CombineOptions, weights: Sequence[float], updates: Sequence[Factors], generator: torch.Generator
) -> Tensor:
    """Return PEFT's combination of whole updates; PEFT draws from torch's global generator, which is restored."""
    function: Any = getattr(import_module("peft.utils.merge_utils"), options.how)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        update: Tensor = function([up @ down for up, down in updates], torch.tensor(weights), options.density)
        generator.set_state(torch.get_rng_state())
    return update
