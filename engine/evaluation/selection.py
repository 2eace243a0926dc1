"""Model selection: the best validation of a run, and whether there is enough validation data to choose it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adaptdock.plugins.contracts import Calibrated, Record, Task

ENOUGH = 20
"""The fewest answers with which validation can tell two epochs apart.

With fewer, a single answer is more than 5 percent of the metric, and the standard error of a share near one half is
above 11 percent: chance decides which epoch is best.
"""


@dataclass(frozen=True)
class Criterion:
    """The order of validations: by the deciding metric, then by the lower loss, under their names in a history.

    With too little validation data (``decisive`` is false) the newest validation counts as the best.
    """

    metric: str
    lower_is_better: bool = False
    loss: str = "eval_loss"
    decisive: bool = True

    @classmethod
    def of(cls, task: Task, records: Sequence[Record]) -> "Criterion":
        """Return the criterion for cleaned validation records of a task."""
        kind = type(task)
        return cls(f"eval_{kind.metric}", kind.lower_is_better, decisive=task.support(records) >= ENOUGH)

    def of_task(self, name: str) -> "Criterion":
        """Return the criterion for one of several tasks, whose history entries end in ``@`` and the task's name."""
        return replace(self, metric=f"{self.metric}@{name}", loss=f"{self.loss}@{name}")

    def worth(self, entry: Mapping[str, Any]) -> tuple[float, float]:
        """Return the sort key of a validation, greater is better; NaN is worst."""
        metric = -entry[self.metric] if self.lower_is_better else entry[self.metric]
        return tuple(-math.inf if math.isnan(value) else value for value in (metric, -entry[self.loss]))  # type: ignore[return-value]

    def best(self, history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """Return the best validation, the first among equals; None without validations."""
        validations = [entry for entry in history if self.metric in entry]
        if not validations:
            return None
        return max(validations, key=self.worth) if self.decisive else validations[-1]

    def since_best(self, history: Sequence[Mapping[str, Any]], start: float = -1.0) -> int | None:
        """Return the number of validations since the best, 0 if the newest is best; None without validations.

        Validations up to the epoch ``start`` do not count.
        """
        best = self.best(history)
        if best is None:
            return None
        validations = [entry for entry in history if self.metric in entry]
        place = next(number for number, entry in enumerate(validations) if entry is best)
        counted = len([entry for entry in validations if entry["epoch"] > start])
        return min(len(validations) - 1 - place, counted)


LAST_KEPT = "the weights of the last epoch are kept, and training does not stop early"


def uncalibrated(task: Task) -> str:
    """Say that nothing is learnt from too few records once the weights are chosen; empty where nothing ever is."""
    return ", and no temperature or threshold is learnt from them" if isinstance(task, Calibrated) else ""


def too_few(task: Task, records: Sequence[Record], instead: str = LAST_KEPT) -> list[str]:
    """Return a note that validation records are too few to choose an epoch, with the fallback; otherwise nothing."""
    support = task.support(records)
    if support >= ENOUGH:
        return []
    return [
        f"validation compares {support} answers, and fewer than {ENOUGH} cannot tell epochs apart: {instead}"
        f"{uncalibrated(task)}. More validation data can be named with --train and --validation"
    ]
