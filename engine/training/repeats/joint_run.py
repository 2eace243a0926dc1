"""Independent trainings as members of one pass: the trials of a sweep, folds, seeds."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.heads.head_fit import FoldChoice
from adaptdock.engine.training.loop.progress import Judge, Progress
from adaptdock.engine.training.loop.run import Run
from adaptdock.engine.training.members.members import Member, Members
from adaptdock.engine.training.members.memory import members_that_fit
from adaptdock.engine.training.members.task_run import Result, TaskRun
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.repeats.complete_runs import read_complete, report_complete
from adaptdock.errors import AdaptError

MOST = 8
"""Most trainings in one pass."""
PASSES = "passes.json"
"""The labels of the trainings of each pass, which a resumed run keeps: memory may have another size then."""


@dataclass(frozen=True)
class Training:
    """A training of a pass: its plan, the folder of its files, and the name of its adapter.

    ``try_folds`` is that of :class:`TaskRun`.
    """

    plan: Plan
    folder: Path
    name: str | None = None
    try_folds: Callable[[], FoldChoice | None] | None = None


class EndedEarly(AdaptError):
    """The judge has ended a training before its last epoch."""


def train_together(
    trainings: Mapping[str, Training],
    folder: Path,
    judge: Judge | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Result | AdaptError]:
    """Train in one pass, and return the result of each training, or its error.

    ``folder`` has the checkpoints of the pass until its end, and keeps them after Ctrl-C. ``judge`` is called with the
    validations of trainings. A training that it ends has the error :class:`EndedEarly`. A training whose loss is not a
    number ends by itself. ``progress`` is called as in :class:`Run`, with the numbers of all trainings.
    Raises what :class:`Run` raises, besides.
    """
    run = run_together(trainings, folder, judge)
    results = run(progress, resume)
    if all(result.ending != "interrupted" for result in results):
        shutil.rmtree(folder, ignore_errors=True)
    return outcomes_of(run, results)


def outcomes_of(run: Run, results: Sequence[Result]) -> dict[str, Result | AdaptError]:
    """Return the result of each training of a pass by its label, or its error, from the ``results`` of the run."""
    members, remaining = run.members, iter(results)
    outcomes: dict[str, Result | AdaptError] = {}
    for task in members.tasks:
        if task.label in members.failures:
            rate = task.plan.options.learning_rate
            outcomes[task.label] = AdaptError(
                f"{members.failures[task.label]}; a smaller learning rate than {rate:g} usually helps"
            )
        elif task.label in members.ended:
            outcomes[task.label] = EndedEarly("ended early")
        else:
            outcomes[task.label] = next(remaining)
    return outcomes


def run_together(trainings: Mapping[str, Training], folder: Path, judge: Judge | None = None) -> Run:
    """Return the run of trainings in one pass, whose checkpoints are in ``folder``."""
    dock = Dock(next(iter(trainings.values())).plan.backbone)
    tasks = [
        TaskRun(entry.plan, dock, entry.folder, entry.name, try_folds=entry.try_folds, label=label)
        for label, entry in trainings.items()
    ]
    for task in tasks:
        task.folder.mkdir(parents=True, exist_ok=True)
    members = [Member([task], number) for number, task in enumerate(tasks)]
    return Run(Members(dock, members, judge=judge, spared=True), folder)


def train_in_passes(
    trainings: Mapping[str, Training], folder: Path, judge: Judge | None = None
) -> dict[str, Result | AdaptError]:
    """Train in as few passes as memory allows; ``folder`` has the checkpoints of a pass until its end.

    Ends after a pass that is interrupted, or in which a training fails. Raises what :class:`Run` raises, besides.
    """
    outcomes: dict[str, Result | AdaptError] = {}
    for part in passes_of(trainings):
        outcomes |= train_together(part, folder, judge)
        if any(map(_stops, outcomes.values())):
            break
    shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def passes_of(trainings: Mapping[str, Training]) -> list[dict[str, Training]]:
    """Return the trainings of each pass: as few passes as memory allows."""
    plans = [entry.plan for entry in trainings.values()]
    size = 1 if any(plan.options.cache for plan in plans) else members_that_fit(plans[0], MOST)[0]
    labels = list(trainings)
    return [
        {label: trainings[label] for label in labels[start : start + size]} for start in range(0, len(labels), size)
    ]


def resumable(
    trainings: Mapping[str, Training], folder: Path, resume: bool, progress: Callable[[Progress], None] | None = None
) -> dict[str, Result | AdaptError]:
    """Train in as few passes as memory allows, and write a report of each training into its folder.

    ``folder`` has the checkpoints of the passes until the end of the last. With ``resume`` the passes are those of the
    interrupted or killed process, and complete ones are not repeated. Ends after a pass that is interrupted, or in
    which a training fails.
    """
    outcomes: dict[str, Result | AdaptError] = {}
    for number, labels in enumerate(_recorded_passes(trainings, folder, resume), 1):
        part = {label: trainings[label] for label in labels}
        complete = {label: read_complete(entry.folder) if resume else None for label, entry in part.items()}
        results = {label: result for label, result in complete.items() if result is not None}
        place = folder / f"pass-{number}"
        if len(results) == len(part):
            outcomes |= results
            continue
        outcomes |= train_together(part, place, resume=resume and place.exists(), progress=progress)
        if any(map(_stops, outcomes.values())):
            return outcomes
        for label, entry in part.items():
            result = outcomes[label]
            assert isinstance(result, Result)
            report_complete(entry.folder, entry.plan, result)
    shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def _recorded_passes(trainings: Mapping[str, Training], folder: Path, resume: bool) -> Sequence[Sequence[str]]:
    file = folder / PASSES
    if resume and file.exists():
        recorded: list[list[str]] = json.loads(file.read_text())
        return recorded
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    passes = [list(part) for part in passes_of(trainings)]
    file.write_text(json.dumps(passes) + "\n")
    return passes


def _stops(result: Result | AdaptError) -> bool:
    """Return whether the trainings of later passes are in vain."""
    return isinstance(result, AdaptError) or result.ending == "interrupted"
