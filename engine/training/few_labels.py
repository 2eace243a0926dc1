"""Few labels: all records are trained on, and folds of them tell whether the adapter is worth more than its head alone.

A tenth of few records could not tell two epochs apart, so no epoch is chosen: training takes all its steps, whose rate
falls to zero at the end. Each fold trains an adapter on the other records, and fits the head alone on them; both are
measured on the fold. The head alone is saved where its metric is the better one; at the same metric the loss says
little, for an adapter that has learnt its few records by heart is surer of all its answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptdock.engine.training.cross_validation import divide
from adaptdock.engine.training.head_fit import FoldChoice
from adaptdock.engine.training.plan import Plan
from adaptdock.engine.training.progress import Progress
from adaptdock.engine.training.run import run_of
from adaptdock.errors import DataError

FOLDS = 4
PLACE = "few-labels"
"""The folder, in that of the run, with the runs of the folds."""


@dataclass(frozen=True)
class _Fold:
    """The number of records of a fold, and what its adapter and the fitted head, if there is one, reach on them."""

    records: int
    adapter: Mapping[str, float]
    head: Mapping[str, float] | None


def choose_by_folds(plan: Plan, folder: Path, progress: Callable[[Progress], None] | None) -> FoldChoice | None:
    """Return what folds say of a plan without validation data; None where its records cannot be divided.

    The runs of the folds are in ``folder / few-labels``. Ctrl-C ends them with :class:`KeyboardInterrupt`.
    """
    try:
        plans = divide(plan, FOLDS)
    except DataError:  # too few records that stand alone
        return None
    folds = []
    for number, fold_plan in enumerate(plans, 1):
        held_out = fold_plan.records.pop("validation")
        run = run_of(fold_plan, folder / PLACE / str(number))
        (task,) = run.members.tasks
        (result,) = run(_staged(progress, f"fold {number} of {len(plans)}"))
        if result.ending == "interrupted":
            raise KeyboardInterrupt
        head = task.fitted_answer()
        reached = None if head is None else task.measured(head, held_out)
        folds.append(_Fold(len(held_out), task.measured(result.adapter, held_out), reached))
    return _chosen(plan, folds)


def _chosen(plan: Plan, folds: Sequence[_Fold]) -> FoldChoice:
    criterion, name = plan.criterion, type(plan.task).metric
    sizes = [fold.records for fold in folds]
    adapter, heads = _means(sizes, [fold.adapter for fold in folds]), [fold.head for fold in folds if fold.head]
    head = _means(sizes, heads) if len(heads) == len(folds) else None
    alone = head is not None and criterion.worth(head)[0] > criterion.worth(adapter)[0]
    better = head if head is not None and alone else adapter
    metrics = {key.removeprefix("eval_"): value for key, value in better.items() if key != "eval_loss"}
    reached = None if head is None else head[f"eval_{name}"]
    return FoldChoice(len(folds), adapter[f"eval_{name}"], reached, alone, metrics)


def _means(sizes: Sequence[int], numbers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each number over the records of all folds."""
    weighted = list(zip(sizes, numbers, strict=True))
    return {
        name: round(sum(size * by_name[name] for size, by_name in weighted) / sum(sizes), 4)
        for name in numbers[0]
        if all(name in by_name for by_name in numbers)
    }


def _staged(progress: Callable[[Progress], None] | None, stage: str) -> Callable[[Progress], None] | None:
    """Return what hears of a run as a stage of a longer one."""
    if progress is None:
        return None
    return lambda now: progress(replace(now, stage=stage))
