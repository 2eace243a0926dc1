"""The adapter beside classic answers that need no backbone, on records that neither was trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adaptdock.engine.evaluation.resampling import Metric
from adaptdock.engine.training.heads.adapter_shares import standard_error
from adaptdock.plugins.contracts import ClassicallyAnswered, Record, Task

Predictions = Sequence[Mapping[str, Any]]


def classic_answers(task: Task, train: Sequence[Record], records: Sequence[Record]) -> Mapping[str, Predictions]:
    """Return the classic answers to records by the name of each method; empty for a task without any."""
    return task.classic_answers(train, records) if isinstance(task, ClassicallyAnswered) else {}


def beside_classics(
    task: Task, records: Sequence[Record], answers: Predictions, classics: Mapping[str, Predictions], where: str
) -> dict[str, Any]:
    """Return the metric of each classic method, and a sentence if one is better beyond a standard error.

    ``where`` names the records in the sentence. Empty without classic answers.
    """
    if not classics:
        return {}
    name, sign = type(task).metric, -1 if type(task).lower_is_better else 1
    metric = Metric(task, records, answers, *classics.values())
    everyone = np.arange(len(records))
    values = [metric.value(everyone, place) for place in range(1 + len(classics))]
    best = max(range(len(values)), key=lambda place: sign * values[place])
    sentence = ""
    if sign * (values[best] - values[0]) > standard_error(metric, 0, best):
        sentence = (
            f"A simpler answer is better than this adapter: {list(classics)[best - 1]} reaches {name} "
            f"{values[best]:.2f} on {where}, the adapter {values[0]:.2f}."
        )
    by_name = {method: round(value, 2) for method, value in zip(classics, values[1:], strict=True)}
    return {"classic": {"where": where, name: round(values[0], 2), "methods": by_name, "better": sentence or None}}
