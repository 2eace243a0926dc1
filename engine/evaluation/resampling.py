"""Resampling: the bootstrap and the paired permutation test of a task's metric over records.

A task with sums (:class:`Summable`) is resampled by sums of records, any other by its :meth:`Task.score`.
Efron 1979 (percentile bootstrap); Fisher 1935 and Yeh 2000, arXiv:cs/0008005 (paired permutation); McNemar 1947.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptdock.plugins.contracts import Record, Summable, Task

LEVEL = 0.95
DRAWS, SCORED_DRAWS = 1000, 100
"""Draws by sums, and by :meth:`Task.score`, which is slower."""
PERMUTATIONS, SCORED_PERMUTATIONS = 10_000, 200
CHUNK = 500
"""Permutations of all records that are computed together."""
TOLERANCE = 1e-9
"""Differences of metrics below this are rounding errors."""

Predictions = Sequence[Mapping[str, Any]]
Interval = tuple[float, float]


class Metric:
    """The metric of a task on any selection of records, for one or several sets of predictions of them."""

    def __init__(self, task: Task, records: Sequence[Record], *predictions: Predictions) -> None:
        self.task, self.records, self.predictions = task, records, predictions
        self._summable = task if isinstance(task, Summable) else None  # once: a slow check, and there are many draws
        self.summed = self._summable is not None
        self._sums: NDArray[np.float64] = np.empty((len(predictions), 0))
        if self._summable is not None:  # (sets, records, sums)
            self._sums = np.array(
                [list(map(self._summable.sums, records, answers)) for answers in predictions], dtype=float
            )

    def value(self, numbers: NDArray[np.int64], sets: NDArray[np.int64] | int = 0) -> float:
        """Return the metric of the records with these numbers; ``sets`` has the set of predictions of each."""
        if self._summable is not None:
            return self._summable.of_sums(self._sums[sets, numbers].sum(0).tolist())
        of_record = np.broadcast_to(sets, numbers.shape)
        records = [self.records[number] for number in numbers]
        answers = [self.predictions[place][number] for place, number in zip(of_record, numbers, strict=True)]
        return float(self.task.score(records, answers)[type(self.task).metric])

    def permuted(self, count: int, generator: np.random.Generator) -> Iterator[float]:
        """Yield differences of the second and the first set of predictions, with random records exchanged."""
        number = len(self.records)
        if self._summable is None:
            for _ in range(count):
                sets = generator.integers(2, size=number)
                yield self.value(np.arange(number), sets) - self.value(np.arange(number), 1 - sets)
            return
        metric = self._summable.of_sums
        first, second = self._sums.sum(1)
        change = self._sums[1] - self._sums[0]
        for start in range(0, count, CHUNK):
            exchanged = generator.integers(2, size=(min(CHUNK, count - start), number)).astype(float)
            for moved in exchanged @ change:
                yield metric((second - moved).tolist()) - metric((first + moved).tolist())

    def is_right_or_wrong(self) -> bool:
        """Return whether each record is either right or wrong: the metric is a share of records."""
        if not self.summed or self._sums.shape[-1] != 2:
            return False
        right, counts = self._sums[..., 0], self._sums[..., 1]
        return bool((counts == 1).all() and np.isin(right, (0, 1)).all())

    def right(self, number: int) -> NDArray[np.bool_]:
        """Return which records a set of predictions has right."""
        return np.asarray(self._sums[number, :, 0] == 1)


def interval(metric: Metric, numbers: NDArray[np.int64], draws: int | None = None, seed: int = 0) -> Interval | None:
    """Return the bounds of the 95 % interval of the metric of some records; None for fewer than two records."""
    if len(numbers) < 2:
        return None
    generator = np.random.default_rng(seed)
    count = draws or (DRAWS if metric.summed else SCORED_DRAWS)
    return _bounds([metric.value(generator.choice(numbers, len(numbers))) for _ in range(count)])


def _bounds(values: Sequence[float]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedTest:
    """The difference of two metrics on the same records: its value, 95 % interval, p-value, and the test used."""

    difference: float
    interval: Interval | None
    p_value: float
    test: str


def paired_test(metric: Metric, seed: int = 0) -> PairedTest:
    """Compare the second set of predictions with the first, record by record.

    The null hypothesis is that both sets are equally good. A metric that is a share of right records gets McNemar's
    exact test, any other one a permutation test.
    """
    everyone = np.arange(len(metric.records))
    generator = np.random.default_rng(seed)
    difference = metric.value(everyone, 1) - metric.value(everyone, 0)
    draws = DRAWS if metric.summed else SCORED_DRAWS
    bounds = None
    if len(everyone) > 1:
        drawn = (generator.choice(everyone, len(everyone)) for _ in range(draws))
        bounds = _bounds([metric.value(numbers, 1) - metric.value(numbers, 0) for numbers in drawn])
    if metric.is_right_or_wrong():
        return PairedTest(difference, bounds, _mcnemar(metric), "McNemar's exact test")
    count = PERMUTATIONS if metric.summed else SCORED_PERMUTATIONS
    limit = abs(difference) - TOLERANCE
    extreme = sum(abs(value) >= limit for value in metric.permuted(count, generator))
    # The observed order is one of the permutations, so that p is never 0.
    return PairedTest(difference, bounds, (extreme + 1) / (count + 1), f"permutation test, {count} draws")


def _mcnemar(metric: Metric) -> float:
    from scipy.stats import binomtest

    first, second = metric.right(0), metric.right(1)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)
