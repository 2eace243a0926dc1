"""Few labels: all records are trained on, and folds of them tell how much of the adapter's change is worth keeping.

A tenth of few records could not tell two epochs apart, so no epoch is chosen: training takes all its steps, whose rate
falls to zero at the end. Each fold trains an adapter on the other records, and fits the head alone on them; the head
alone, the adapter, and the adapter with half of its change are measured on the fold. :mod:`adapter_shares` has the
rule of the choice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptdock.engine.evaluation.measurement import Evaluation, pooled
from adaptdock.engine.training.heads.adapter_shares import choose_share
from adaptdock.engine.training.heads.classic_comparison import Predictions, beside_classics, classic_answers
from adaptdock.engine.training.heads.head_fit import FoldChoice
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import run_of
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.repeats.cross_validation import divide
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Record

FOLDS = 4
PLACE = "few-labels"
"""The folder, in that of the run, with the runs of the folds."""


@dataclass(frozen=True)
class _Fold:
    """The records of a fold, what an adapter with each share of its change answers on them, and classic answers."""

    records: Sequence[Record]
    evaluations: Mapping[float, Evaluation]
    classics: Mapping[str, Predictions]


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
        evaluations = {share: task.measured(adapter, held_out) for share, adapter in task.by_share().items()}
        classics = classic_answers(plan.task, fold_plan.given, held_out)
        folds.append(_Fold(held_out, evaluations, classics))
    return _chosen(plan, folds)


def _chosen(plan: Plan, folds: Sequence[_Fold]) -> FoldChoice:
    records = [record for fold in folds for record in fold.records]
    shares = [share for share in folds[0].evaluations if all(share in fold.evaluations for fold in folds)]
    predictions = {share: [answer for fold in folds for answer in fold.evaluations[share].scored] for share in shares}
    choice = choose_share(plan.task, records, predictions)
    evaluation = pooled(plan.task, [(fold.records, fold.evaluations[choice.share]) for fold in folds])
    methods = [name for name in folds[0].classics if all(name in fold.classics for fold in folds)]
    classics = {name: [answer for fold in folds for answer in fold.classics[name]] for name in methods}
    beside = beside_classics(plan.task, records, predictions[choice.share], classics, f"{len(folds)} folds")
    return FoldChoice(len(folds), choice, records, evaluation, beside)


def _staged(progress: Callable[[Progress], None] | None, stage: str) -> Callable[[Progress], None] | None:
    """Return what hears of a run as a stage of a longer one."""
    if progress is None:
        return None
    return lambda now: progress(replace(now, stage=stage))
