"""Several tasks trained together: on one adapter with a head each, or each on its own in the same passes.

Rows of all tasks share batches, and a batch is one pass forward and back. On one *shared adapter* the loss of a batch
is the mean over its rows, each row by its own task's head. With *own adapters* every row is changed by its task's
adapter alone; the loss is the sum of what the tasks would have had by themselves, and gradients are clipped by
adapter, so that a step is the one that each would have taken alone on its rows.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptdock.engine.core.assembly import HEAD, Assembly
from adaptdock.engine.core.batches import collate, collate_labels, collate_row_inputs, length, shuffled
from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.core.forward import mask_for, states
from adaptdock.engine.core.open_ports import OpenPorts
from adaptdock.engine.data.sources import Source
from adaptdock.engine.evaluation.selection import LAST_KEPT, Criterion, too_few
from adaptdock.engine.training.contract import Ending, Validated
from adaptdock.engine.training.hyperparameters import lengthened, merge_options
from adaptdock.engine.training.loop import TrainingLoop
from adaptdock.engine.training.plan import Plan, draft
from adaptdock.engine.training.run import Result, Run
from adaptdock.engine.training.schedules import Distances, frozen_until
from adaptdock.engine.training.schedules import check as check_schedules
from adaptdock.engine.training.task_sampling import Sampling, drawn, draws, shares
from adaptdock.engine.training.trainable import Acting, Answering, TrainedRows, copied, dropping
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
class TogetherPlan:
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


def plan_together(
    backbone: Backbone,
    tasks: Mapping[str, TaskEntry],
    method: str = registry.DEFAULT_METHOD,
    sharing: SharingOptions | None = None,
    options: Mapping[str, Any] | None = None,
    method_options: Mapping[str, Any] | None = None,
) -> TogetherPlan:
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
    _check_together(plans, sharing)
    together = TogetherPlan(plans, sharing, [entry.weight for entry in tasks.values()], notes)
    longer, few = lengthened(next(iter(plans.values())).options, sum(together.counts))
    for made in plans.values():
        made.options = longer.model_copy(update={"head_start": made.options.head_start})
        check_schedules(made.backbone, made.assembly, made.options)
    together.notes += [*few, *_too_few(together)]
    return together


def _too_few(made: TogetherPlan) -> list[str]:
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


def _check_together(plans: Mapping[str, Plan], sharing: SharingOptions) -> None:
    by_half: dict[str, str] = {}
    for name, made in plans.items():
        by_half.setdefault(made.assembly.head.reads, name)
    if made.backbone.encoder_decoder and len(by_half) > 1:
        (one, first), (other, second) = by_half.items()
        raise UsageError(f"{first!r} reads the {one}, {second!r} the {other}: they have no pass in common")
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


class Together(nn.Module):
    """The trained weights of several tasks; calling it with a batch returns the loss.

    :meth:`tensors` gives the weights of each task as they would stand in a file, the number of the task in front of
    their names.
    """

    def __init__(self, run: "TogetherRun", ports: OpenPorts) -> None:
        super().__init__()
        backbone, options, self.shared = run.backbone, run.options, run.plan.sharing.shared
        self.heads, self.adapters = nn.ModuleList(), nn.ModuleList()
        for number, made in enumerate(run.plan.plans.values()):
            generator = torch.Generator().manual_seed(options.seed)
            start = made.assembly.start(generator)
            self.heads.append(Answering(made.assembly, start, made.class_weights()))
            if number == 0 or not self.shared:
                self.adapters.append(Acting(made.assembly, start, generator))
            run.runs[number].fit_heads(self._answering[-1], self._acting[-1], answers_alone=not self.shared)
        self.losses: list[list[float]] = [[] for _ in self.heads]
        self._outside = (backbone, ports)  # a tuple, so that they do not become part of this module
        self._backbone_dropout = options.backbone_dropout

    @property
    def _acting(self) -> list[Acting]:
        return cast("list[Acting]", list(self.adapters))

    @property
    def _answering(self) -> list[Answering]:
        return cast("list[Answering]", list(self.heads))

    def tensors(self) -> dict[str, Tensor]:
        """Return a copy of the weights; those that are shared stand under the name of each task."""
        acting = [copied(adapter.tensors()) for adapter in self._acting]
        found = {}
        for number, head in enumerate(self._answering):
            mine = {**acting[0 if self.shared else number], **copied(head.tensors())}
            found.update({f"{number}.{name}": tensor for name, tensor in mine.items()})
        return found

    def forward(
        self,
        labels: Sequence[Tensor],
        row_inputs: Sequence[Mapping[str, Tensor]],
        owners: Tensor,
        **inputs: Tensor,
    ) -> dict[str, Tensor]:
        """Return the loss of a batch.

        ``owners`` (R) are the numbers of the rows' tasks, ``labels`` and ``row_inputs`` those of each task for its own
        rows.
        """
        backbone, ports = self._outside
        inputs = {name: tensor.to(backbone.device) for name, tensor in inputs.items()}
        tasks = owners.tolist()
        head = self._answering[tasks[0]].assembly.head  # all of them read the same half
        mask = mask_for(head, inputs)
        acting = [0] * len(tasks) if self.shared else tasks
        rows = TrainedRows(backbone, self._acting, acting, dropout=self.training)
        with dropping(backbone.model, self._backbone_dropout and self.training):
            hidden = states(backbone, ports, rows, inputs, head.reads)
        hidden = hidden[:, -mask.shape[1] :]
        losses = []
        for number in sorted(set(tasks)):
            mine = owners.to(mask.device) == number
            longest = int(mask[mine].sum(1).max())  # as if there were no other rows
            own_states = hidden[mine.to(hidden.device), :longest]
            loss = self.heads[number](backbone, own_states, mask[mine, :longest], labels[number], row_inputs[number])
            self.losses[number].append(float(loss.detach()))
            share = tasks.count(number) / len(tasks)
            losses.append(loss * share if self.shared else loss)
        penalties = [acting.penalty() for acting in self._acting] if self.training else []
        losses += [penalty for penalty in penalties if penalty is not None]
        return {"loss": torch.stack(losses).sum()}

    def after_step(self, step: int, steps: int) -> None:
        """Let the methods of every adapter change their parameters between two steps."""
        for acting in self._acting:
            acting.after_step(step, steps)


class TogetherRun(TrainingLoop[list[Result]]):
    """Tasks trained together in one folder; each has a folder in it with its name, as if it had been trained alone."""

    def __init__(self, plan: TogetherPlan, folder: Path) -> None:
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
        self._together: Together | None = None

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

    def trainable(self) -> Together:
        """Return all weights with their start values."""
        self._together = Together(self, self.dock.ports)
        return self._together

    def clipped(self, trainable: nn.Module) -> list[list[nn.Parameter]]:
        """Return the parameters of each adapter and its head; of a shared one all are one group."""
        assert isinstance(trainable, Together)
        if trainable.shared:
            return [list(trainable.parameters())]
        pairs = zip(trainable.adapters, trainable.heads, strict=True)
        return [[*adapter.parameters(), *head.parameters()] for adapter, head in pairs]

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
        for run, own in self._divided(tensors):
            found = run.check(own)
            numbers.update({_own(run.name, key): value for key, value in found.numbers.items()})
            metrics[run.name] = found.metrics
            shown.update({f"{run.name} {metric}": value for metric, value in found.shown.items()})
        numbers["eval_loss"] = round(sum(numbers[_own(run.name, "eval_loss")] for run in self.runs), 5)
        numbers["eval_mean"] = fmean(
            _worth(run, numbers[run.criterion.of_task(run.name).metric]) for run in self._judges
        )
        return Validated(numbers, metrics, shown)

    def keep_best(self, history: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], found: Validated) -> None:
        """Store the newest weights of all tasks if their mean is the best; of own adapters, of those that are best."""
        for run, own in self._divided(tensors):
            if self._since(run, history) == 0:
                run.keep(own, history[-1]["epoch"], found.metrics[run.name])

    def keep_if_none(self, tensors: Mapping[str, Tensor]) -> None:
        """Store weights for those tasks that have none."""
        for run, own in self._divided(tensors):
            run.folder.mkdir(parents=True, exist_ok=True)
            run.keep_if_none(own)

    def stalled(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether patience is at its end with every task."""
        since = []
        for run in self.runs:
            frozen = frozen_until(run.backbone, run.plan.assembly, run.options)
            since.append(self._since(run, history, max(frozen, self.patient_from)))
        patience = self.options.patience
        return bool(patience) and all(found is not None and found >= patience for found in since)

    def extra_losses(self) -> Mapping[str, float]:
        """Return the mean loss of each task since it was last told."""
        assert self._together is not None
        found = {}
        for run, losses in zip(self.runs, self._together.losses, strict=True):
            if losses:
                found[_own(run.name, "loss")] = round(sum(losses) / len(losses), 5)
            losses.clear()
        return found

    @property
    def _judges(self) -> list[Run]:
        """The tasks whose validation can tell which weights of a shared adapter are best; all where none can."""
        return [run for run in self.runs if run.criterion.decisive] or self.runs

    def _since(self, run: Run, history: Sequence[Mapping[str, Any]], start: float = -1.0) -> int | None:
        if self.plan.sharing.shared:
            decisive = any(run.criterion.decisive for run in self.runs)
            return Criterion("eval_mean", decisive=decisive).since_best(history, start)
        return run.criterion.of_task(run.name).since_best(history, start)

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
        results = []
        for run in self.runs:
            found = run._finish(_history_of(run.name, history), epochs, ending)
            ending = "interrupted" if found.ending == "interrupted" else ending  # the others are not measured then
            results.append(found)
        self._tidy(ending)
        return results


def _worth(run: Run, value: float) -> float:
    """Return a metric as it counts in the mean: an error counts against it."""
    return -value if type(run.plan.task).lower_is_better else value


def _own(name: str, key: str) -> str:
    """Return what a task's number is called in the history of all."""
    return f"{key}@{name}"


def _history_of(name: str, history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the history tells of one task, as if it had been trained alone."""
    kept = {"epoch", "step", "learning_rate"}
    found = []
    for entry in history:
        own = {key.removesuffix(f"@{name}"): value for key, value in entry.items() if key.endswith(f"@{name}")}
        if own:
            found.append({**own, **{key: value for key, value in entry.items() if key in kept}})
    return found
