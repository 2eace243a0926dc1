"""The share of its trained change that an adapter keeps: nothing, half or all of it, each with a head fitted for it.

Weights between those before and after training often generalise better than either (WiSE-FT, Wortsman et al. 2022,
arXiv:2109.01903). Nothing is the fitted head alone. Like the one-standard-error rule (Breiman et al. 1984, section
3.4.3), the choice leaves the fitted head only for a metric that is better on the same records by more than a standard
error of the difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from adaptdock.engine.evaluation.resampling import Metric
from adaptdock.plugins.contracts import Record, Task

SHARES = (0.0, 0.5, 1.0)
"""Shares of the trained change that are compared, the least first."""
NAMES = {0.0: "fitted head", 0.5: "half adapter", 1.0: "adapter"}
DRAWS = 200
"""Draws of the records for a standard error (bootstrap)."""


@dataclass(frozen=True)
class ShareChoice:
    """The chosen share, and the metric of each."""

    share: float
    metrics: Mapping[float, float]

    @property
    def name(self) -> str:
        """What is saved, in words."""
        return NAMES[self.share]


def interpolated(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return weights between those at the start and the trained ones, in float32."""
    return {name: start[name].float().lerp(tensor.float(), share) for name, tensor in trained.items()}


def choose_share(task: Task, records: Sequence[Record], predictions: Mapping[float, Sequence[Any]]) -> ShareChoice:
    """Return the share with the best metric on the records, or the least if it is within a standard error of that one.

    Of equal metrics that of the greatest share is the best. ``predictions`` has those of all records for each share.
    """
    shares = sorted(predictions)
    metric = Metric(task, records, *(predictions[share] for share in shares))
    everyone = np.arange(len(records))
    sign = -1 if type(task).lower_is_better else 1
    values = [sign * metric.value(everyone, place) for place in range(len(shares))]
    best = max(range(len(shares)), key=lambda place: (values[place], place))
    place = best if values[best] - values[0] > standard_error(metric, 0, best) else 0
    return ShareChoice(shares[place], {share: sign * value for share, value in zip(shares, values, strict=True)})


def standard_error(metric: Metric, first: int, second: int) -> float:
    """Return the standard error of the difference of two sets of predictions, by the bootstrap over records."""
    if first == second:
        return 0.0
    generator = np.random.default_rng(0)
    count = len(metric.records)
    draws = [generator.choice(count, count) for _ in range(DRAWS if metric.summed else DRAWS // 4)]
    return float(np.std([metric.value(numbers, second) - metric.value(numbers, first) for numbers in draws]))
