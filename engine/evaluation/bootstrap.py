"""Confidence intervals of metrics, by the bootstrap over records (Efron 1979; the percentile method)."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Record, Task

LEVEL = 0.95


def intervals(
    task: Task, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]], draws: int, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the bounds of the 95 % interval of each numeric metric.

    Each draw takes as many records as there are, with replacement, and scores their predictions. Raises
    :class:`UsageError` for fewer than two records, and for records without a prediction each.
    """
    if len(records) < 2 or len(predictions) != len(records):
        raise UsageError(
            f"--bootstrap draws among records with a prediction each; here are {len(records)} records and "
            f"{len(predictions)} predictions"
        )
    generator, draw_metrics = random.Random(seed), []
    for _ in range(draws):
        numbers = generator.choices(range(len(records)), k=len(records))
        metrics = task.score([records[number] for number in numbers], [predictions[number] for number in numbers])
        draw_metrics.append(metrics)
    names = [name for name, value in draw_metrics[0].items() if isinstance(value, int | float)]
    return {name: _bounds([float(metrics[name]) for metrics in draw_metrics]) for name in names}


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    ordered, outside = sorted(values), (1 - LEVEL) / 2
    return ordered[round(outside * (len(ordered) - 1))], ordered[round((1 - outside) * (len(ordered) - 1))]
