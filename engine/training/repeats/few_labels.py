"""Few labels: all records are trained on, and folds of them tell how much of the adapter's change is worth keeping.

A tenth of few records could not tell two epochs apart, so no epoch is chosen: training takes all its steps, whose rate
falls to zero at the end. Each fold trains an adapter on the other records, and fits the head alone on them; all folds
are members of one pass. The head alone, the adapter, and the adapter with half of its change are measured on the fold.
:mod:`adapter_shares` has the rule of the choice.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptdock.engine.evaluation.measurement import Evaluation, pooled
from adaptdock.engine.training.heads.adapter_shares import choose_share
from adaptdock.engine.training.heads.classic_comparison import Predictions, beside_classics, classic_answers
from adaptdock.engine.training.heads.head_fit import FoldChoice
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.members.task_run import TaskRun
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.repeats.cross_validation import divide
from adaptdock.engine.training.repeats.joint_run import Training, outcomes_of, passes_of, run_together
from adaptdock.errors import AdaptError, DataError
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
    held_out = [fold_plan.records.pop("validation") for fold_plan in plans]
    trainings = {
        f"fold {number}": Training(_without_probes(fold_plan), folder / PLACE / str(number))
        for number, fold_plan in enumerate(plans, 1)
    }
    tasks = [task for part in passes_of(trainings) for task in _trained(part, folder / PLACE / "pass", progress)]
    return _chosen(plan, [_measured(task, records) for task, records in zip(tasks, held_out, strict=True)])


def _without_probes(plan: Plan) -> Plan:
    """Return a plan whose adapter is measured, and never docked from its file."""
    return replace(plan, options=plan.options.model_copy(update={"probe_data": "none"}))


def _trained(
    trainings: Mapping[str, Training], folder: Path, progress: Callable[[Progress], None] | None
) -> Sequence[TaskRun]:
    """Train folds in one pass; raise :class:`AdaptError` for a fold whose loss stops being a number."""
    run = run_together(trainings, folder)
    results = run(_staged(progress, f"{', '.join(trainings)} of {FOLDS}"))
    for label, outcome in outcomes_of(run, results).items():
        if isinstance(outcome, AdaptError):
            raise AdaptError(f"{label}: {outcome}")
        if outcome.ending == "interrupted":
            raise KeyboardInterrupt
    shutil.rmtree(folder, ignore_errors=True)
    return run.members.tasks


def _measured(task: TaskRun, held_out: Sequence[Record]) -> _Fold:
    evaluations = {share: task.measured(adapter, held_out) for share, adapter in task.by_share().items()}
    return _Fold(held_out, evaluations, classic_answers(task.plan.task, task.plan.given, held_out))


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
