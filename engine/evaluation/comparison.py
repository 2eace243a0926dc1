"""Comparison of two adapters on the same records: paired test, and the records that only one of them has right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaptdock.engine.evaluation.measurement import Evaluation
from adaptdock.engine.evaluation.resampling import Interval, Metric, PairedTest, interval, paired_test
from adaptdock.plugins.contracts import Outcome, Record, Task
from adaptdock.plugins.task_abilities import outcome

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same records.

    ``better_first`` and ``better_second`` are the numbers of the records that only one adapter has right; of tasks
    without right and wrong answers (numbers, generated texts) those with the smaller error. The greatest differences
    come first.
    """

    metric: str
    values: tuple[float, float]
    intervals: tuple[Interval | None, Interval | None]
    test: PairedTest
    lower_is_better: bool
    outcomes: tuple[list[Outcome], list[Outcome]]
    right_or_wrong: bool
    better_first: list[int]
    better_second: list[int]

    @property
    def better(self) -> int | None:
        """The number of the better adapter, 0 or 1; None if the data does not show a difference (p of 5 % or more)."""
        if self.test.p_value >= SIGNIFICANT or self.test.difference == 0:
            return None
        return int((self.test.difference > 0) != self.lower_is_better)


def compare(task: Task, records: Sequence[Record], first: Evaluation, second: Evaluation) -> Comparison:
    """Compare two adapters of one task by their evaluations of the same records."""
    metric = Metric(task, records, first.scored, second.scored)
    everyone = np.arange(len(records))
    second_metric = Metric(task, records, second.scored)
    outcomes = (_outcomes(task, records, first), _outcomes(task, records, second))
    right_or_wrong = any(result.pairs for results in outcomes for result in results)
    differences = [_difference(*pair, right_or_wrong) for pair in zip(*outcomes, strict=True)]
    order = sorted(range(len(differences)), key=lambda number: -abs(differences[number]))
    kind = type(task)
    return Comparison(
        metric=kind.metric,
        values=(metric.value(everyone, 0), metric.value(everyone, 1)),
        intervals=(interval(metric, everyone), interval(second_metric, everyone)),
        test=paired_test(metric),
        lower_is_better=kind.lower_is_better,
        outcomes=outcomes,
        right_or_wrong=right_or_wrong,
        better_first=[number for number in order if differences[number] < 0],
        better_second=[number for number in order if differences[number] > 0],
    )


def _outcomes(task: Task, records: Sequence[Record], evaluation: Evaluation) -> list[Outcome]:
    return [outcome(task, record, answer) for record, answer in zip(records, evaluation.scored, strict=True)]


def _difference(first: Outcome, second: Outcome, right_or_wrong: bool) -> float:
    """Return the error of the first minus that of the second; 0 if both are wrong."""
    if right_or_wrong and first.error > 0 and second.error > 0:
        return 0.0
    return first.error - second.error
