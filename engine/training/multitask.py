"""Several tasks trained together: on one adapter with a head each, or each on its own in the same passes.

On one *shared adapter* rows of all tasks share batches, and the loss of a batch is the mean over its rows, each row by
its own task's head. *Own adapters* are members with batches, optimiser, schedule and epochs of their own; a pass
forward and back joins the next batch of each, and a member's steps are those that it would have taken alone.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptdock.engine.core.assembly import HEAD, Assembly
from adaptdock.engine.core.batches import collate, collate_labels, collate_row_inputs, length, shuffled
from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.evaluation.selection import LAST_KEPT, Criterion, too_few
from adaptdock.engine.training.contract import Ending, TrainedMember, Validated
from adaptdock.engine.training.hyperparameters import lengthened, merge_options
from adaptdock.engine.training.loop import TrainingLoop
from adaptdock.engine.training.member_steps import JointBatches, MemberSteps
from adaptdock.engine.training.plan import Plan, draft
from adaptdock.engine.training.run import Result, Run
from adaptdock.engine.training.schedules import Distances, frozen_until
from adaptdock.engine.training.schedules import check as check_schedules
from adaptdock.engine.training.task_sampling import Sampling, drawn, draws, shares
from adaptdock.engine.training.trainable import JointTrainable
from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Feature, Options

NAME = re.compile(r"[\w-][\w.-]{0,199}")
Unit = tuple[int, list[Feature]]
"""The number of a task, and what is drawn of it at once."""


class SharingOptions(Options):
    """How several tasks are trained together."""

    sharing: Literal["adapter", "passes"] = "adapter"
    """One adapter for all tasks with a head each, or an adapter each in the same passes of the backbone."""
    sampling: Sampling = "proportional"
    """How often a task comes up: by the size of its data, by that evened out, or all the same."""
    temperature: float = Field(5.0, gt=0)
    """With temperature sampling shares are sizes to the power of one over this; 1 is proportional."""

    @property
    def shared(self) -> bool:
        """Whether all tasks train one adapter."""
        return self.sharing == "adapter"


class TaskEntry(Options):
    """A task among those that are trained together; its name is the adapter's."""

    task: str
    data: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    format: str | None = None
    columns: dict[str, str] = {}
    encoding: str = "utf-8"
    options: dict[str, Any] = {}
    weight: float = Field(1.0, gt=0)
    """Factor on how often the task comes up."""

    @property
    def source(self) -> Source:
        """Where its data is."""
        return Source(**self.model_dump(include={*Source.__dataclass_fields__}))


@dataclass
class JointPlan:
    """Everything that is decided before the first step; a plan for each task by its name."""

    plans: dict[str, Plan]
    sharing: SharingOptions
    weights: list[float]
    notes: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        """The units of each task."""
        return [len(made.units) for made in self.plans.values()]

    @property
    def counts(self) -> list[int]:
        """The units of each task in an epoch."""
        chosen = self.sharing
        return draws(self.sizes, shares(self.sizes, self.weights, chosen.sampling, chosen.temperature))

    def summary(self) -> dict[str, Any]:
        """Return what would be trained, on what, for ``--dry-run`` and the run's folder."""
        names = list(self.plans)
        return {
            "sharing": self.sharing.model_dump(mode="json"),
            "units_in_an_epoch": dict(zip(names, self.counts, strict=True)),
            "trained_parameters": self.trained_parameters(),
            "tasks": {name: made.summary() for name, made in self.plans.items()},
        }

    def trained_parameters(self) -> int:
        """Return the number of weights that are trained; those of a shared adapter count once."""
        plans = list(self.plans.values())
        found = sum(made.trained_parameters() for made in plans)
        if self.sharing.shared:
            found -= sum(_count_acting(made.assembly) for made in plans[1:])
        return found


def plan_jointly(
    backbone: Backbone,
    tasks: Mapping[str, TaskEntry],
    method: str = registry.DEFAULT_METHOD,
    sharing: SharingOptions | None = None,
    options: Mapping[str, Any] | None = None,
    method_options: Mapping[str, Any] | None = None,
) -> JointPlan:
    """Plan several tasks; what is not given comes from the recipe that the first of them has for the method.

    Raises what :func:`draft` raises, with the task's name in front, and :class:`UsageError` for tasks that cannot
    be trained together.
    """
    sharing = sharing or SharingOptions()
    check_names(tasks)
    first = next(iter(tasks.values())).task
    chosen = merge_options(first, method, options or {})
    if chosen.cache:
        raise UsageError("--cache keeps the states of one task's texts: it does not go with several tasks")
    if chosen.unlabelled:
        raise UsageError("--unlabelled names texts for one task to label: it does not go with several tasks")
    given = {**chosen.model_dump(), "method_options": {**chosen.method_options, **(method_options or {})}}
    plans: dict[str, Plan] = {}
    notes = []
    for name, entry in tasks.items():
        made = draft(backbone, entry.task, method, entry.source, given, None, entry.options)
        plans[name] = made
        notes += [f"{name}: {line}" for line in made.notes]
    _check_compatible(plans, sharing)
    together = JointPlan(plans, sharing, [entry.weight for entry in tasks.values()], notes)
    for name, made, count in zip(plans, plans.values(), together.counts, strict=True):
        made.options, few = lengthened(made.options, sum(together.counts) if sharing.shared else count)
        check_schedules(made.backbone, made.assembly, made.options)
        lines = few if sharing.shared else [f"{name}: {line}" for line in few]
        notes += [line for line in lines if line not in notes]
    together.notes += _too_few(together)
    return together


def _too_few(made: JointPlan) -> list[str]:
    """Say which tasks have too little validation data to choose an epoch by."""
    others_choose = made.sharing.shared and any(own.criterion.decisive for own in made.plans.values())
    instead = "the other tasks choose it" if others_choose else LAST_KEPT
    return [
        f"{name}: {line}"
        for name, own in made.plans.items()
        for line in too_few(own.task, own.records["validation"], instead)
    ]


def check_names(names: Collection[str]) -> None:
    """Raise :class:`UsageError` for fewer than two tasks, and for names that no folder could have."""
    if len(names) < 2:
        raise UsageError(f"there is {len(names) or 'no'} task to train together: name two or more")
    wrong = next((name for name in names if not NAME.fullmatch(name)), None)
    if wrong is not None:
        raise UsageError(f"the name {wrong!r} of a task: 1 to 200 letters, digits, '_', '-' and '.', no '.' in front")


def _check_compatible(plans: Mapping[str, Plan], sharing: SharingOptions) -> None:
    by_half: dict[str, str] = {}
    for name, made in plans.items():
        by_half.setdefault(made.assembly.head.reads, name)
    if made.backbone.encoder_decoder and len(by_half) > 1:
        (one, first), (other, second) = by_half.items()
        raise UsageError(f"{first!r} reads the {one}, {second!r} the {other}: they have no pass in common")
    common = [(made.options.backbone_dropout, made.options.gradient_accumulation) for made in plans.values()]
    if len(set(common)) > 1:
        raise UsageError(
            "tasks in the same passes need the same --backbone-dropout and --gradient-accumulation: name both"
        )
    if sharing.shared:
        shapes = [_shapes_acting(made.assembly) for made in plans.values()]
        if any(found != shapes[0] for found in shapes):
            raise UsageError(
                "the tasks do not adapt the same places, so they cannot share one adapter: --sharing passes"
            )


def _shapes_acting(assembly: Assembly) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in assembly.shapes().items() if not name.startswith(f"{HEAD}.")}


def _count_acting(assembly: Assembly) -> int:
    return sum(
        torch.Size(declared.shape).numel()
        for place, _, declared in assembly.declared()
        if declared.trained and place != HEAD
    )


class JointRun(TrainingLoop[list[Result]]):
    """Tasks trained together in one folder; each has a folder in it with its name, as if it had been trained alone.

    All passes are one epoch of the Trainer, an element each.
    """

    batch_size = epochs = 1

    def __init__(self, plan: JointPlan, folder: Path) -> None:
        check_alone("training several tasks together")
        first = next(iter(plan.plans.values()))
        super().__init__(first.backbone, first.options, folder)
        self.plan = plan
        told = {**plan.sharing.model_dump(mode="json"), "tasks": dict(zip(plan.plans, plan.counts, strict=True))}
        self.runs = [Run(made, folder / name, name, told) for name, made in plan.plans.items()]
        for run in self.runs:
            run.dock = self.dock
        self._units = [(number, unit) for number, run in enumerate(self.runs) for unit in run.units]
        self._lengths = [max(map(length, unit)) for _, unit in self._units]
        self._trainable: JointTrainable | None = None
        self._step = 0
        self.steps = [MemberSteps(self.options, self.draw)] if plan.sharing.shared else self._own_steps()
        self._batches = JointBatches(self.steps, self.options.gradient_accumulation, self._units)

    @property
    def assemblies(self) -> Sequence[Assembly]:
        """Every task's."""
        return [run.plan.assembly for run in self.runs]

    @property
    def units(self) -> Sequence[Unit]:
        """Those of all tasks, one task after the other."""
        return self._units

    @property
    def measured_before(self) -> bool:
        """Whether any task asks for it."""
        return any(run.measured_before for run in self.runs)

    @property
    def kept_in(self) -> Path:
        """The folder, in which each task has its own."""
        return self.folder

    def lengths(self) -> list[int]:
        """Return the longest window of each unit."""
        return self._lengths

    def draw(self, epoch: int) -> list[int]:
        """Return the units of an epoch: of each task as many as its share, of which all come before one comes again."""
        options, chosen = self.options, []
        start = 0
        for number, (size, count) in enumerate(zip(self.plan.sizes, self.plan.counts, strict=True)):
            seed = options.seed * 100_003 + 7919 * number
            chosen += [start + place for place in drawn(size, count, epoch * count, seed)]
            start += size
        lengths = [self._lengths[place] for place in chosen]
        seed = options.seed * 100_003 + epoch
        return [chosen[place] for place in shuffled(lengths, options.batch_size, seed, options.group_by_length)]

    def trainable(self) -> JointTrainable:
        """Return all weights with their start values."""
        tasks = [(run.plan.assembly, run.options.seed, run.plan.class_weights()) for run in self.runs]
        shared, drops = self.plan.sharing.shared, self.options.backbone_dropout
        self._trainable = JointTrainable(self.backbone, self.dock.ports, tasks, shared, drops)
        return self._trainable

    @property
    def dataset(self) -> JointBatches:
        """The batches of all passes."""
        return self._batches

    @property
    def steps_per_epoch(self) -> int:
        """The steps of the shortest epoch."""
        return min(steps.per_epoch for steps in self.steps)

    def order(self, epoch: int) -> Sequence[int]:
        """Return the passes in their order."""
        return range(len(self._batches))

    def members(self, trainable: Any) -> list[TrainedMember]:
        """Return each adapter with its head, or heads; a shared one is one member."""
        if trainable.shared:
            return super().members(trainable)
        return [
            TrainedMember([*adapter.parameters(), *head.parameters()], run.options, steps.per_epoch, self.distances)
            for run, steps, adapter, head in zip(
                self.runs, self.steps, trainable.adapters, trainable.heads, strict=True
            )
        ]

    def due(self, step: int) -> bool:
        """Tell whether an epoch of any member ends with a step."""
        self._step = step
        return any(steps.ends_epoch(step) for steps in self.steps)

    def epoch_after(self, step: int, epoch: float) -> float:
        """Return the epoch of the member that is trained longest."""
        return max(self.steps, key=lambda steps: steps.last).epoch(step)

    def _own_steps(self) -> list[MemberSteps]:
        """Return the steps of adapters of their own: each takes its batches as if it were trained alone."""
        first, steps = 0, []
        for number, run in enumerate(self.runs):
            steps.append(MemberSteps(run.options, partial(self._draw_own, number, first)))
            first += self.plan.sizes[number]
        return steps

    def _draw_own(self, number: int, first: int, epoch: int) -> list[int]:
        """Return the units of a member's epoch, as alone; of another share of the data in its own order."""
        run, size, count = self.runs[number], self.plan.sizes[number], self.plan.counts[number]
        if size == count:
            return [first + place for place in run.draw(epoch)]
        places = drawn(size, count, epoch * count, run.options.seed * 100_003)
        lengths = [self._lengths[first + place] for place in places]
        seed = run.options.seed * 100_003 + epoch
        order = shuffled(lengths, run.options.batch_size, seed, run.options.group_by_length)
        return [first + places[number] for number in order]

    def _steps_of(self, number: int) -> MemberSteps:
        return self.steps[0 if self.plan.sharing.shared else number]

    def distances(self, trainable: Any) -> Mapping[nn.Parameter, int]:
        """Return how far from the top each parameter acts; those of a shared adapter act in all tasks alike."""
        found: dict[nn.Parameter, int] = {}
        for number, run in enumerate(self.runs):
            acting = trainable.adapters[0 if trainable.shared else number]
            found |= Distances(self.backbone, run.plan.assembly).of_parameters(trainable.heads[number], acting)
        return found

    def collator(self) -> Callable[[Sequence[Any]], dict[str, Any]]:
        """Return what puts units of any tasks into one batch."""
        backbone, count, assemblies = self.backbone, len(self.runs), self.assemblies

        def collated(batch: Sequence[Any]) -> dict[str, Any]:
            if batch and isinstance(batch[0][0], list):  # the one element of a pass
                ((units, factors),) = batch
                return {**collated(units), "factors": factors}
            rows = [(number, feature) for number, unit in batch for feature in unit]
            own = [[feature for number, feature in rows if number == task] for task in range(count)]
            return {
                **collate(backbone, [feature for _, feature in rows]),
                "owners": torch.tensor([number for number, _ in rows]),
                "labels": [collate_labels(features, backbone.device) for features in own],
                "row_inputs": [
                    collate_row_inputs(assembly.head, features, backbone.device)
                    for assembly, features in zip(assemblies, own, strict=True)
                ],
            }

        return collated

    def identity(self) -> dict[str, str]:
        """Return the fingerprints of every task, and of what they share."""
        found = {f"{part} of {run.name}": mark for run in self.runs for part, mark in run.identity().items()}
        return {**found, "tasks and their shares": f"{self.plan.sharing.model_dump_json()} {self.plan.weights}"}

    def begin_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember the start weights of each task."""
        for run, own in self._divided(tensors):
            run.begin_with(own)

    def recall(self) -> None:
        """Take the files of an earlier run."""
        for run in self.runs:
            run.recall()

    def check(self, tensors: Mapping[str, Tensor]) -> Validated:
        """Measure each task on its own validation data."""
        numbers: dict[str, float] = {}
        metrics, shown = {}, {}
        due = self._due()
        for number, (run, own) in enumerate(self._divided(tensors)):
            if number not in due:
                continue
            validated = run.check(own)
            numbers.update({_own(run.name, key): value for key, value in validated.numbers.items()})
            metrics[run.name] = validated.metrics
            shown.update({f"{run.name} {metric}": value for metric, value in validated.shown.items()})
        numbers["eval_loss"] = round(sum(numbers[_own(self.runs[number].name, "eval_loss")] for number in due), 5)
        if self.plan.sharing.shared:
            numbers["eval_mean"] = fmean(
                _worth(run, numbers[run.criterion.of_task(run.name).metric]) for run in self._judges
            )
        return Validated(numbers, metrics, shown)

    def _due(self) -> list[int]:
        """Return the tasks whose member has just ended an epoch; before the first step all."""
        return [n for n in range(len(self.runs)) if not self._step or self._steps_of(n).ends_epoch(self._step)]

    def keep_best(self, history: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], found: Validated) -> None:
        """Store the newest weights of all tasks if their mean is the best; of own adapters, of those that are best."""
        for number, (run, own) in enumerate(self._divided(tensors)):
            if run.name in found.metrics and self._since(number, history) == 0:
                run.keep(own, self._steps_of(number).epoch(history[-1]["step"]), found.metrics[run.name])

    def keep_if_none(self, tensors: Mapping[str, Tensor]) -> None:
        """Store weights for those tasks that have none."""
        for run, own in self._divided(tensors):
            run.folder.mkdir(parents=True, exist_ok=True)
            run.keep_if_none(own)

    def stalled(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether no member goes on; one whose patience is at its end leaves the passes."""
        if not history:
            return False
        waiting = [self._is_waiting(number, history) for number in range(len(self.runs))]
        for number, steps in enumerate(self.steps):
            validated = [entry["step"] for entry in self._history_of(number, history) if "eval_loss" in entry]
            if not (any(waiting) if self.plan.sharing.shared else waiting[number]) and validated:
                steps.last = min(steps.last, validated[-1])
        return all(history[-1]["step"] >= steps.last for steps in self.steps)

    def _is_waiting(self, number: int, history: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether a task still waits for a better validation."""
        run = self.runs[number]
        patience, patient_from = run.options.patience, run.options.min_steps / self._steps_of(number).per_epoch
        frozen = frozen_until(run.backbone, run.plan.assembly, run.options)
        since = self._since(number, history, max(frozen, patient_from))
        return not patience or since is None or since < patience

    def extra_losses(self) -> Mapping[str, float]:
        """Return the mean loss of each task since it was last told."""
        assert self._trainable is not None
        found = {}
        for run, losses in zip(self.runs, self._trainable.losses, strict=True):
            if losses:
                found[_own(run.name, "loss")] = round(sum(losses) / len(losses), 5)
            losses.clear()
        return found

    @property
    def _judges(self) -> list[Run]:
        """The tasks whose validation can tell which weights of a shared adapter are best; all where none can."""
        return [run for run in self.runs if run.criterion.decisive] or self.runs

    def _since(self, number: int, history: Sequence[Mapping[str, Any]], start: float = -1.0) -> int | None:
        if not self.plan.sharing.shared:
            return self.runs[number].criterion.since_best(self._history_of(number, history), start)
        own = [{**entry, "epoch": self.steps[0].epoch(entry["step"])} for entry in history]
        decisive = any(run.criterion.decisive for run in self.runs)
        return Criterion("eval_mean", decisive=decisive).since_best(own, start)

    def _history_of(self, number: int, history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return what the history tells of one task, as if it had been trained alone."""
        steps, name = self._steps_of(number), self.runs[number].name
        entries = []
        for entry in history:
            own = {key.removesuffix(f"@{name}"): value for key, value in entry.items() if key.endswith(f"@{name}")}
            if own:
                shared = {key: entry[key] for key in ("step", "learning_rate") if key in entry}
                entries.append({**own, **shared, "epoch": steps.epoch(entry["step"])})
        return entries

    def _divided(self, tensors: Mapping[str, Tensor]) -> list[tuple[Run, dict[str, Tensor]]]:
        """Return each task's run with its weights under the names they have in its file."""
        own: list[dict[str, Tensor]] = [{} for _ in self.runs]
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            own[int(number)][name] = tensor
        return list(zip(self.runs, own, strict=True))

    def _settle(self, resume: bool) -> None:
        super()._settle(resume)
        for run in self.runs:
            run.folder.mkdir(parents=True, exist_ok=True)

    def _finish(self, history: Sequence[Mapping[str, Any]], epochs: float, ending: Ending) -> list[Result]:
        results, step = [], round(epochs * max(steps.count for steps in self.steps))
        for number, run in enumerate(self.runs):
            steps = self._steps_of(number)
            if ending != "interrupted":
                ending = "early" if steps.last < steps.count else "complete"
            result = run._finish(self._history_of(number, history), steps.epoch(step), ending)
            ending = "interrupted" if result.ending == "interrupted" else ending  # the others are not measured then
            results.append(result)
        self._tidy(ending)
        return results


def _worth(run: Run, value: float) -> float:
    """Return a metric as it counts in the mean: an error counts against it."""
    return -value if type(run.plan.task).lower_is_better else value


def _own(name: str, key: str) -> str:
    """Return what a task's number is called in the history of all."""
    return f"{key}@{name}"
