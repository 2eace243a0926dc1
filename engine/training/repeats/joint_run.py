"""Independent trainings as members of one pass: the trials of a sweep, folds, seeds."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.progress import Judge
from adaptdock.engine.training.loop.run import Run
from adaptdock.engine.training.members.members import Member, Members
from adaptdock.engine.training.members.memory import members_that_fit
from adaptdock.engine.training.members.task_run import Result, TaskRun
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.errors import AdaptError

MOST = 8
"""Most trainings in one pass."""


@dataclass(frozen=True)
class Training:
    """A training of a pass: its plan, the folder of its files, and the name of its adapter."""

    plan: Plan
    folder: Path
    name: str | None = None


class EndedEarly(AdaptError):
    """The judge has ended a training before its last epoch."""


def train_together(
    trainings: Mapping[str, Training], folder: Path, judge: Judge | None = None, resume: bool = False
) -> dict[str, Result | AdaptError]:
    """Train in one pass, and return the result of each training, or its error.

    ``folder`` has the checkpoints of the pass until its end. ``judge`` is called with the validations of trainings. A
    training that it ends has the error :class:`EndedEarly`. A training whose loss is not a number ends by itself.
    Raises what :class:`Run` raises, besides.
    """
    dock = Dock(next(iter(trainings.values())).plan.backbone)
    tasks = [TaskRun(entry.plan, dock, entry.folder, entry.name, label=label) for label, entry in trainings.items()]
    members = Members(dock, [Member([task], number) for number, task in enumerate(tasks)], judge=judge, spared=True)
    for task in tasks:
        task.folder.mkdir(parents=True, exist_ok=True)
    results = iter(Run(members, folder)(resume=resume))
    shutil.rmtree(folder, ignore_errors=True)
    outcomes: dict[str, Result | AdaptError] = {}
    for task in tasks:
        if task.label in members.failures:
            rate = task.plan.options.learning_rate
            outcomes[task.label] = AdaptError(
                f"{members.failures[task.label]}; a smaller learning rate than {rate:g} usually helps"
            )
        elif task.label in members.ended:
            outcomes[task.label] = EndedEarly("ended early")
        else:
            outcomes[task.label] = next(results)
    return outcomes


def train_in_passes(
    trainings: Mapping[str, Training], folder: Path, judge: Judge | None = None
) -> dict[str, Result | AdaptError]:
    """Train in as few passes as memory allows; ``folder`` has the checkpoints of a pass until its end.

    Ends after a pass that is interrupted, or in which a training fails. Raises what :class:`Run` raises, besides.
    """
    plans = [entry.plan for entry in trainings.values()]
    size = 1 if any(plan.options.cache for plan in plans) else members_that_fit(plans[0], MOST)[0]
    outcomes: dict[str, Result | AdaptError] = {}
    labels = list(trainings)
    for start in range(0, len(labels), size):
        part = {label: trainings[label] for label in labels[start : start + size]}
        outcomes |= train_together(part, folder, judge)
        if any(isinstance(result, AdaptError) or result.ending == "interrupted" for result in outcomes.values()):
            break
    return outcomes
