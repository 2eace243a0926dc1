"""The members of a run: each has its own adapter, options, optimiser, schedule, batches, epochs and ending."""

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from adaptdock.engine.core.assembly import Assembly
from adaptdock.engine.core.batches import collate, collate_labels, collate_row_inputs, same_features, shuffled
from adaptdock.engine.core.distributed import ranks
from adaptdock.engine.evaluation.selection import Criterion
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.heads.pairs import paired_order
from adaptdock.engine.training.loop.progress import Ending, Judge, Progress, Validated
from adaptdock.engine.training.loop.schedules import Distances, frozen_until
from adaptdock.engine.training.members.member_dropout import Draw
from adaptdock.engine.training.members.member_steps import JointBatches, MemberSteps
from adaptdock.engine.training.members.numbered_units import NumberedUnits, Unit
from adaptdock.engine.training.members.state_cache import Cache
from adaptdock.engine.training.members.task_run import HeadFits, Result, TaskRun
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.engine.training.members.validation import validate
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions
from adaptdock.engine.training.planning.task_sampling import drawn

History = Sequence[Mapping[str, Any]]
ENDED, FAILED = "ended", "failed"
"""Marks in a history: the judge has ended this task; its loss is not a number."""


class Member:
    """One adapter in training, with one optimiser and one schedule.

    Its tasks share the adapter, with a head for each task; one task is the usual case. ``first`` is the number of its
    first task in the run, ``counts`` are the units of each task in an epoch.
    """

    def __init__(self, tasks: Sequence[TaskRun], first: int = 0, counts: Sequence[int] | None = None) -> None:
        self.tasks, self.first = tasks, first
        self.options: TrainingOptions = tasks[0].plan.options
        self._sizes = [len(task.units) for task in tasks]
        self._counts = list(counts or self._sizes)
        self.units = NumberedUnits({first + n: task.units for n, task in enumerate(tasks)})
        self._lengths = [length for task in tasks for length in task.lengths()]
        self.steps = MemberSteps(self.options, self.draw)

    @property
    def numbers(self) -> range:
        """The numbers of its tasks in the run."""
        return range(self.first, self.first + len(self.tasks))

    def draw(self, epoch: int) -> Sequence[int]:
        """Return the positions of an epoch's units in training order; the order depends on seed and epoch alone.

        No unit repeats before all units of its task have been drawn, also over several epochs.
        """
        options = self.options
        places: Sequence[int] = range(len(self.units))
        if len(self.tasks) > 1 or self._counts != self._sizes:
            drawn_places, start = array("q"), 0
            for number, (size, count) in enumerate(zip(self._sizes, self._counts, strict=True)):
                seed = options.seed * 100_003 + 7919 * number
                drawn_places.extend(start + place for place in drawn(size, count, epoch * count, seed))
                start += size
            places = drawn_places
        rows, seed = options.batch_size * ranks().count, options.seed * 100_003 + epoch
        if options.learn_from == "pairs":
            return paired_order([unit[0].labels for _, unit in self.units], rows, seed)
        lengths = [self._lengths[place] for place in places]
        return array("q", (places[number] for number in shuffled(lengths, rows, seed, options.group_by_length)))

    def distances(self, trainable: Trainable, number: int) -> Mapping[nn.Parameter, int]:
        """Return the distance from the top for each parameter of this member, whose number in the run is ``number``."""
        distances: dict[nn.Parameter, int] = {}
        for place, task in zip(self.numbers, self.tasks, strict=True):
            distances |= Distances(task.plan.backbone, task.plan.assembly).of_parameters(
                trainable.answering[place], trainable.acting[number]
            )
        return distances

    @property
    def validates(self) -> bool:
        """Whether there is data to measure its weights on after each epoch."""
        return all(task.validates for task in self.tasks)

    @property
    def patient_from(self) -> float:
        """The epoch from which patience counts: all layers learn, and the minimum of steps is done."""
        frozen = max(frozen_until(task.plan.backbone, task.plan.assembly, self.options) for task in self.tasks)
        return max(frozen, self.options.min_steps / self.steps.per_epoch)

    @cached_property
    def judges(self) -> Sequence[TaskRun]:
        """The tasks with enough validation data to choose the best weights; all tasks if none has enough."""
        return [task for task in self.tasks if task.criterion.decisive] or self.tasks


class Members:
    """All members of a run, on one dock.

    In the history of several tasks each number has the suffix ``@`` and the task's label. ``judge`` may end members
    early; the history says which, so that a resumed run ends them again. With ``spared`` a member whose loss is not a
    number ends by itself (``failures`` has the reason), and the others continue.
    """

    def __init__(
        self,
        dock: Dock,
        members: Sequence[Member],
        sharing: Mapping[str, Any] | None = None,
        judge: Judge | None = None,
        spared: bool = False,
    ) -> None:
        self.dock, self.members, self.sharing = dock, members, sharing or {}
        self.judge, self.spared = judge, spared
        self.failures: dict[str, str] = {}
        self.ended: set[str] = set()
        """The labels of the tasks that the judge has ended."""
        self.tasks = [task for member in members for task in member.tasks]
        self.options = members[0].options
        self._of_task = [member for member in members for _ in member.tasks]
        self._step = 0

    def __len__(self) -> int:
        return len(self.members)

    @property
    def assemblies(self) -> Sequence[Assembly]:
        """The adapter of each task; their ports are open during training."""
        return [task.plan.assembly for task in self.tasks]

    @property
    def measured_before(self) -> bool:
        """Whether validation measures the initial weights too, because a task requires it."""
        return any(task.validates and type(task.plan.task).measured_before for task in self.tasks)

    @cached_property
    def batches(self) -> JointBatches:
        """The batches of all passes."""
        pairs = [(member.steps, member.units) for member in self.members]
        return JointBatches(pairs, max(member.options.gradient_accumulation for member in self.members))

    def trainable(self) -> Trainable:
        """Return all weights with their initial values."""
        starts = [[_start(task) for task in member.tasks] for member in self.members]
        trainable = Trainable(self.dock.backbone, self.dock.ports, starts)
        fits: HeadFits = {}
        for task, head, owner in zip(self.tasks, trainable.answering, trainable.owners, strict=True):
            task.fit_heads(head, trainable.acting[owner], len(self.members[owner].tasks) == 1, fits)
        return trainable

    def collator(self) -> Callable[[Sequence[tuple[Sequence[Unit], Sequence[float], Draw]]], dict[str, Any]]:
        """Return a function that makes the arguments of :class:`Trainable` from the single element of a pass."""
        backbone, cache = self.dock.backbone, None
        if self.options.cache:
            (task,) = self.tasks  # the plan has refused --cache with several tasks
            cache = Cache(backbone, task.plan.assembly, [feature for unit in task.units for feature in unit])

        def collated(batch: Sequence[tuple[Sequence[Unit], Sequence[float], Draw]]) -> dict[str, Any]:
            ((units, factors, draw),) = batch
            rows = [(number, feature) for number, unit in units for feature in unit]
            features = [feature for _, feature in rows]
            by_task = [[feature for number, feature in rows if number == task] for task in range(len(self.tasks))]
            arguments = {
                **collate(backbone, features),
                "tasks": [number for number, _ in rows],
                "labels": [collate_labels(task_features, backbone.device) for task_features in by_task],
                "row_inputs": [
                    collate_row_inputs(assembly.head, task_features, backbone.device)
                    for assembly, task_features in zip(self.assemblies, by_task, strict=True)
                ],
                "factors": factors,
                "draw": draw,
                "texts": same_features(features) if len(self.members) > 1 else None,
            }
            return arguments if cache is None else {**arguments, "entering": cache.states(features)}

        return collated

    def identity(self) -> dict[str, str]:
        """Return fingerprints of everything that a resumed run must find unchanged."""
        if len(self.tasks) == 1:
            return self.tasks[0].plan.identity()
        marks = {f"{part} of {task.label}": mark for task in self.tasks for part, mark in task.plan.identity().items()}
        return {**marks, **{str(name): str(value) for name, value in self.sharing.items()}}

    # --------------------------------------------------------------------------- validation and best weights

    def due(self, step: int) -> bool:
        """Return whether an epoch of any member ends with a step, counted from 1."""
        self._step = step
        return any(member.validates and member.steps.ends_epoch(step) for member in self.members)

    def epoch(self, step: int) -> float:
        """Return the epochs, after a step, of the member with the most steps."""
        return max((member.steps for member in self.members), key=lambda steps: steps.last).epoch(step)

    def check(self, tensors: Sequence[Mapping[str, Tensor]]) -> Validated:
        """Validate the tasks of members that have just ended an epoch; at the start all tasks."""
        numbers: dict[str, float] = {}
        validations: dict[str, Validated] = {}
        validating = [member for member in self.members if member.validates]
        due = [member for member in validating if not self._step or member.steps.ends_epoch(self._step)]
        due_tasks = {task: tensors[n] for member in due for task, n in zip(member.tasks, member.numbers, strict=True)}
        for task, validated in validate(self.dock, due_tasks):
            validations[task.label] = validated
            numbers.update({self._key(task, key): value for key, value in validated.numbers.items()})
        losses = [numbers[self._key(task, "eval_loss")] for member in due for task in member.tasks]
        numbers["eval_loss"] = round(sum(losses), 5)
        for member in due:
            if len(member.tasks) > 1:
                worths = [_worth(task, numbers[self._key(task, task.criterion.metric)]) for task in member.judges]
                numbers[_mean(member)] = fmean(worths)
        numbers |= self._judged(due, validations)
        if len(self.tasks) == 1:
            (validated,) = validations.values()
            return Validated(numbers, validated.metrics, validated.shown)
        metrics = {label: validated.metrics for label, validated in validations.items()}
        shown = {
            f"{label} {metric}": value
            for label, validated in validations.items()
            for metric, value in validated.shown.items()
        }
        return Validated(numbers, metrics, shown)

    def _judged(self, due: Sequence[Member], validations: Mapping[str, Validated]) -> dict[str, float]:
        """Return a mark for the history for each task that the judge ends after its newest validation."""
        if self.judge is None or not self._step:
            return {}
        newest = {}
        for task, steps in ((task, member.steps) for member in due for task in member.tasks):
            validated = validations[task.label]
            newest[task.label] = Progress(
                *(self._step, steps.last, steps.epoch(self._step)), metrics=validated.metrics, shown=validated.shown
            )
        ended = self.judge(newest)
        return {self._key(task, ENDED): 1.0 for task in self.tasks if task.label in ended}

    def failed(self, losses: Mapping[int, float], step: int) -> dict[str, float]:
        """End members whose loss in a step, counted from 1, is not a number; return the marks for the history."""
        marks: dict[str, float] = {}
        for number, loss in losses.items():
            member = self.members[number]
            if not math.isfinite(loss) and step <= member.steps.last:
                member.steps.last = step - 1
                marks |= {self._key(task, FAILED): loss for task in member.tasks}
                reason = f"the loss became {loss} in step {step}"
                self.failures |= {task.label: reason for task in member.tasks}
        return marks

    def begin_with(self, tensors: Sequence[Mapping[str, Tensor]]) -> None:
        """Store the initial weights, so that the end of training can report weights that have not changed."""
        for task, weights in zip(self.tasks, tensors, strict=True):
            task.begin_with(weights)

    def recall(self) -> None:
        """Load the files of an earlier run as the best adapters so far."""
        for task in self.tasks:
            task.recall()

    def keep_best(self, history: History, tensors: Sequence[Mapping[str, Tensor]], validated: Validated) -> None:
        """Store the newest weights of each member whose newest validation is the best in its history."""
        for member in self.members:
            epoch = member.steps.epoch(history[-1]["step"])
            for task, number in zip(member.tasks, member.numbers, strict=True):
                metrics = validated.metrics if len(self.tasks) == 1 else validated.metrics.get(task.label)
                if metrics is not None and self._since(member, history) == 0:
                    task.keep(tensors[number], epoch, metrics)

    def keep_if_none(self, tensors: Sequence[Mapping[str, Tensor]]) -> None:
        """Store weights for the tasks without a stored adapter."""
        for task, weights in zip(self.tasks, tensors, strict=True):
            if task.label not in self.failures:
                task.keep_if_none(weights)

    def recall_endings(self, history: History) -> None:
        """End the members that failed, or that the judge has ended, according to the history."""
        for task, member in zip(self.tasks, self._of_task, strict=True):
            for entry in self.history(task, history):
                if ENDED in entry:
                    self.ended.add(task.label)
                if FAILED in entry and task.label not in self.failures:
                    self.failures[task.label] = f"the loss became {entry[FAILED]} in step {entry['step'] + 1}"
                if ENDED in entry or FAILED in entry:
                    member.steps.last = min(member.steps.last, entry["step"])

    def left(self, step: int) -> bool:
        """Return whether no member continues after a step, counted from 1."""
        return all(step >= member.steps.last for member in self.members)

    def stalled(self, history: History) -> bool:
        """Return whether no member continues; a member whose patience has run out leaves the passes."""
        if not history:
            return False
        self.recall_endings(history)
        for member in self.members:
            validations = [entry["step"] for entry in self.history(member.tasks[0], history) if "eval_loss" in entry]
            since = self._since(member, history, member.patient_from)
            patience = member.options.patience
            if validations and patience and since is not None and since >= patience:
                member.steps.last = min(member.steps.last, validations[-1])
        return self.left(history[-1]["step"])

    def losses(self, trainable: Trainable) -> Mapping[str, float]:
        """Return the mean training loss of each task since the last call; nothing for a single task."""
        means = {}
        for task, losses in zip(self.tasks, trainable.losses, strict=True):
            if losses:
                means[self._key(task, "loss")] = round(float(torch.stack(losses).mean()), 5)
            losses.clear()
        return means

    def finish(self, history: History, step: int, ending: Ending) -> list[Result]:
        """Measure the best weights of each task for the last time, store them, and return the results.

        Tasks that failed, or that the judge has ended, have no result.
        """
        results = []
        for task, member in zip(self.tasks, self._of_task, strict=True):
            if task.label in self.failures or task.label in self.ended:
                continue
            if ending != "interrupted":
                ending = "early" if member.steps.last < member.steps.count else "complete"
            result = task.finish(self.history(task, history), member.steps.epoch(step), ending)
            # After Ctrl-C in a measurement the remaining tasks are not measured.
            ending = "interrupted" if result.ending == "interrupted" else ending
            results.append(result)
        return results

    def history(self, task: TaskRun, history: History) -> list[dict[str, Any]]:
        """Return the history of one task, in the form of a run of that task alone."""
        steps = self._of_task[self.tasks.index(task)].steps
        if len(self.tasks) == 1:
            return [{**entry, "epoch": steps.epoch(entry["step"])} for entry in history]
        entries, ending = [], self._key(task, "")
        for entry in history:
            numbers = {key.removesuffix(ending): value for key, value in entry.items() if key.endswith(ending)}
            if numbers:
                shared_numbers = {key: entry[key] for key in ("step", "learning_rate") if key in entry}
                entries.append({**numbers, **shared_numbers, "epoch": steps.epoch(entry["step"])})
        return entries

    def _since(self, member: Member, history: History, start: float = -1.0) -> int | None:
        """Return the number of validations since a member's best one (0: it is the newest), or None without any."""
        if len(member.tasks) == 1:
            (task,) = member.tasks
            return task.criterion.since_best(self.history(task, history), start)
        entries = [{**entry, "epoch": member.steps.epoch(entry["step"])} for entry in history]
        decisive = any(task.criterion.decisive for task in member.tasks)
        return Criterion(_mean(member), decisive=decisive).since_best(entries, start)

    def _key(self, task: TaskRun, key: str) -> str:
        """Return the key of a task's number in the history of all tasks."""
        return key if len(self.tasks) == 1 else f"{key}@{task.label}"


def _start(task: TaskRun) -> TaskStart:
    weights = task.plan.class_weights()
    options = task.plan.options
    return TaskStart(task.plan.assembly, options.seed, weights, options.backbone_dropout, options.learn_from == "pairs")


def _mean(member: Member) -> str:
    """Return the history key of the mean metric of a member with several tasks."""
    return "eval_mean" if member.first == 0 else f"eval_mean_{member.first}"


def _worth(task: TaskRun, value: float) -> float:
    """Return a metric for averaging: a lower-is-better metric is negated."""
    return -value if type(task.plan.task).lower_is_better else value
