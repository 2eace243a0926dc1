"""Sampling among tasks that are trained together: the share of each task in an epoch.

With n_i units of data, task i has the share p_i proportional to weight_i * n_i^(1/T). T = 1 is proportional
sampling; a higher temperature makes the shares more even, as in mT5 (Xue et al. 2021, arXiv:2010.11934, whose alpha is
1/T) and in the temperature-scaled mixing of T5 (Raffel et al. 2020, arXiv:1910.10683). Uniform sampling leaves n_i out.
"""

from collections.abc import Sequence
from typing import Literal

import torch

Sampling = Literal["proportional", "temperature", "uniform"]


def shares(sizes: Sequence[int], weights: Sequence[float], sampling: Sampling, temperature: float) -> list[float]:
    """Return the share of each task; they add up to one."""
    powers = {"proportional": 1.0, "temperature": 1 / temperature, "uniform": 0.0}
    raw = [weight * size ** powers[sampling] for size, weight in zip(sizes, weights, strict=True)]
    return [share / sum(raw) for share in raw]


def draws(sizes: Sequence[int], parts: Sequence[float]) -> list[int]:
    """Return the number of units of each task in an epoch, by largest remainder; each task has at least one.

    An epoch has as many units as all tasks together.
    """
    total = sum(sizes)
    exact = [part * total for part in parts]
    counts = [int(count) for count in exact]
    by_remainder = sorted(range(len(parts)), key=lambda number: counts[number] - exact[number])
    for number in by_remainder[: total - sum(counts)]:
        counts[number] += 1
    return [max(1, count) for count in counts]


def drawn(size: int, count: int, before: int, seed: int) -> list[int]:
    """Return ``count`` of the numbers below ``size``, after the ``before`` numbers of earlier epochs.

    Shuffled orders of all numbers follow each other, so that no number repeats before all have been drawn.
    """
    numbers: list[int] = []
    place = before
    while len(numbers) < count:
        generator = torch.Generator().manual_seed(seed + place // size)
        order = torch.randperm(size, generator=generator).tolist()
        numbers += order[place % size : place % size + count - len(numbers)]
        place = before + len(numbers)
    return numbers
