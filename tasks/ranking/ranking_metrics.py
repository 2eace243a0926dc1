"""Metrics of rankings, as trec_eval defines them: reciprocal rank, nDCG with linear gain, average precision.

Source: the measures recip_rank, ndcg_cut and map of trec_eval 9 (NIST). A query without a relevant candidate has 0.
Among candidates of equal score the relevant ones count as last, so that equal scores for all gain nothing.
"""

import math
from collections.abc import Sequence

CUT = 10
"""The rank up to which reciprocal rank and nDCG count."""


def ranked(scores: Sequence[float], relevance: Sequence[int]) -> list[int]:
    """Return the relevance of candidates in the order of their scores, the highest first."""
    return [gain for _, gain in sorted(zip(scores, relevance, strict=True), key=lambda pair: (-pair[0], pair[1]))]


def reciprocal_rank(gains: Sequence[int], cut: int = CUT) -> float:
    """Return 1 / rank of the first relevant candidate; 0 without one up to ``cut``."""
    return next((1 / rank for rank, gain in enumerate(gains[:cut], 1) if gain > 0), 0.0)


def ndcg(gains: Sequence[int], cut: int = CUT) -> float:
    """Return the discounted gain up to ``cut`` as a share of that of the best order; 0 without a relevant candidate."""
    best = _discounted(sorted(gains, reverse=True)[:cut])
    return _discounted(gains[:cut]) / best if best else 0.0


def average_precision(gains: Sequence[int]) -> float:
    """Return the mean over the relevant candidates of the precision at their rank; 0 without one."""
    ranks = [rank for rank, gain in enumerate(gains, 1) if gain > 0]
    return sum(number / rank for number, rank in enumerate(ranks, 1)) / len(ranks) if ranks else 0.0


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
