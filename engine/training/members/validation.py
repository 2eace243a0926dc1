"""Validation of members after an epoch: those with the same validation data in mixed batches."""

from collections.abc import Hashable, Iterator, Mapping

from torch import Tensor

from adaptdock.engine.evaluation.measurement import evaluate, evaluate_together
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.progress import Validated
from adaptdock.engine.training.members.task_run import TaskRun


def validate(dock: Dock, tasks: Mapping[TaskRun, Mapping[str, Tensor]]) -> Iterator[tuple[TaskRun, Validated]]:
    """Validate the weights of tasks, and yield each task with its validation.

    Tasks with the same validation data, read alike, are measured in mixed batches.
    """
    groups: dict[Hashable, list[TaskRun]] = {}
    for task in tasks:
        plan = task.plan
        options = plan.task.options.model_dump_json()
        reading = plan.reading.max_length, plan.options.batch_size
        # The objects are shared by plans of the same data (SharedData).
        groups.setdefault((id(plan.records["validation"]), plan.task_name, options, *reading), []).append(task)
    for group in groups.values():
        records, batch_size = group[0].plan.records["validation"], group[0].plan.options.batch_size * 2
        adapters = [task.candidate(tasks[task]) for task in group]
        if len(group) == 1:
            evaluations = [evaluate(dock, adapters[0], records, batch_size, write=False)]
        else:
            evaluations = evaluate_together(dock, adapters, records, batch_size)
        for task, evaluation in zip(group, evaluations, strict=True):
            yield task, task.validated(evaluation)
