"""Learning from pairs: texts of one class are drawn together and those of different classes apart.

The loss is the supervised contrastive one (Khosla et al. 2020, arXiv:2004.11362, equation 2) on the vectors that the
head reads, as in SetFit (Tunstall et al. 2022, arXiv:2209.11055) with its stage before the head, but through an
adapter. The head takes no part in it: it is fitted on the resulting vectors.
"""

from collections import defaultdict
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.engine.core.assembly import Assembly
from adaptdock.engine.core.batches import NOT_COUNTED
from adaptdock.engine.training.heads.fittable_heads import vectors_of
from adaptdock.plugins.contracts import Feature

TEMPERATURE = 0.1
"""Divides the cosines; the value of the paper."""


def pairs_of(assembly: Assembly, units: Sequence[Sequence[Feature]]) -> bool:
    """Return whether each unit is one window with one class, and the head reads one vector of it."""
    vectors = vectors_of(assembly)
    if vectors is None or vectors.ndim != 2:
        return False
    return all(len(unit) == 1 and type(unit[0].labels) is int for unit in units)


def pair_loss(vectors: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of the vectors (R, W) with a class that another row has too; 0 without such rows."""
    directions = functional.normalize(vectors.float(), dim=-1)
    alone = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarities = (directions @ directions.T / TEMPERATURE).masked_fill(alone, -torch.inf)
    log_shares = (similarities - similarities.logsumexp(1, keepdim=True)).masked_fill(alone, 0)
    same = (labels[:, None] == labels) & ~alone & (labels != NOT_COUNTED)
    paired = same.any(1)
    if not paired.any():
        return vectors.sum() * 0
    return -((log_shares * same).sum(1)[paired] / same.sum(1)[paired]).mean()


def paired_order(labels: Sequence[int], rows: int, seed: int) -> list[int]:
    """Return all positions in an order whose batches of ``rows`` hold several texts of each of their classes."""
    random = Random(seed)
    by_label: dict[int, list[int]] = defaultdict(list)
    for place in random.sample(range(len(labels)), len(labels)):
        by_label[labels[place]].append(place)
    size = max(2, rows // len(by_label))
    groups = [places[n : n + size] for places in by_label.values() for n in range(0, len(places), size)]
    random.shuffle(groups)
    return [place for group in groups for place in group]
