"""Independent trainings as members of one pass: the trials of a sweep, folds, seeds."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.members import Member, Members
from adaptdock.engine.training.plan import Plan
from adaptdock.engine.training.progress import Judge
from adaptdock.engine.training.run import Run
from adaptdock.engine.training.task_run import Result, TaskRun
from adaptdock.errors import AdaptError


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
