"""The plan of a run: a plan for each of its tasks, one or several, and how the tasks are trained together.

With one *shared adapter* rows of all tasks share batches; the loss of a batch is the mean over its rows, each from the
head of its task. *Separate adapters* are members, each with its own method, options, batches, optimiser, schedule and
epochs. A forward and backward pass joins the next batch of each member, and a member takes the same steps as alone.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field

from adaptdock.engine.core.assembly import HEAD, Assembly, checked_options, make_methods, make_task
from adaptdock.engine.data.sources import Source
from adaptdock.engine.evaluation.selection import LAST_KEPT
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions, merge_options
from adaptdock.engine.training.planning.plan import Plan, draft, settle
from adaptdock.engine.training.planning.shared_data import SharedData
from adaptdock.engine.training.planning.task_sampling import Sampling, draws, shares
from adaptdock.errors import AdaptError, UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Options

NAME = re.compile(r"[\w-][\w.-]{0,199}")
ROUNDS = "a run with texts to label trains in rounds, for one task"
PASS_OPTIONS = {
    "precision": "the backbone is loaded once, for all tasks",
    "cache": "the states of one task's texts would be stored",
    "checkpoint_steps": "a checkpoint holds all tasks",
    "report_to": "a tracker follows the whole run",
    "unlabelled": ROUNDS,
    "confidence": ROUNDS,
    "self_training_rounds": ROUNDS,
}
"""Training options that a task of several can't have for itself, with the reason."""
TASK_OPTIONS = {
    *("class_weights", "max_length", "hold_out", "head_start", "store", "probe_data", "augment", "augment_copies"),
    *("augment_language", "synonyms", "back_translation"),
}
"""Training options on the data, the head and the file of a task; tasks that share an adapter may differ in them."""


class SharingOptions(Options):
    """How several tasks are trained together."""

    sharing: Literal["adapter", "passes"] = "adapter"
    """adapter: one adapter for all tasks, with a head for each; passes: an adapter for each task, in shared passes."""
    sampling: Sampling = "proportional"
    """Sampling rate of a task: by the size of its data, by the evened-out size, or equal for all."""
    temperature: float = Field(5.0, gt=0)
    """Temperature T of temperature sampling: shares are sizes to the power of 1/T; 1 is proportional."""

    @property
    def shared(self) -> bool:
        """Whether all tasks train one adapter."""
        return self.sharing == "adapter"


@dataclass(frozen=True)
class TaskSettings:
    """The settings of one task of a run."""

    task: str
    method: str = registry.DEFAULT_METHOD
    source: Source = field(default_factory=Source)
    training: Mapping[str, Any] = field(default_factory=dict)
    """Training options; missing options come from the task's recipe for the method."""
    method_options: Mapping[str, Any] = field(default_factory=dict)
    task_options: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    """Factor on the sampling rate of the task."""
    may_undivide: bool = True
    """Whether few labels may all be trained on, without validation data (``hold_out``)."""


@dataclass
class RunPlan:
    """Every decision before the first step: a plan for each task by its name."""

    plans: dict[str, Plan]
    sharing: SharingOptions = field(default_factory=SharingOptions)
    weights: list[float] = field(default_factory=lambda: [1.0])

    @classmethod
    def of(cls, plan: Plan, name: str | None = None) -> Self:
        """Return the plan of a run with one task."""
        return cls({name or plan.task_name: plan})

    @property
    def several(self) -> bool:
        """Whether the run has more than one task."""
        return len(self.plans) > 1

    @property
    def shared(self) -> bool:
        """Whether several tasks train one adapter."""
        return self.several and self.sharing.shared

    @property
    def sizes(self) -> list[int]:
        """The units of each task."""
        return [len(plan.units) for plan in self.plans.values()]

    @property
    def counts(self) -> list[int]:
        """The units of each task in an epoch."""
        sharing = self.sharing
        return draws(self.sizes, shares(self.sizes, self.weights, sharing.sampling, sharing.temperature))

    @property
    def notes(self) -> list[str]:
        """The notes on all tasks, each with the name of its task where there are several."""
        if not self.several:
            return [line for plan in self.plans.values() for line in plan.notes]
        first, *rest = self.plans.values()
        common = [line for line in first.notes if all(line in plan.notes for plan in rest)]
        lines = [f"{name}: {line}" for name, plan in self.plans.items() for line in plan.notes if line not in common]
        return [*(f"each task: {line}" for line in common), *lines]

    def folder(self, root: Path, name: str) -> Path:
        """Return a task's folder in the run's folder ``root``: that folder itself for a single task."""
        return root / name if self.several else root

    def summary(self) -> dict[str, Any]:
        """Return the plan as JSON for ``--dry-run`` and the run's folder."""
        summaries = {name: plan.summary() for name, plan in self.plans.items()}
        if not self.several:
            return next(iter(summaries.values()))
        return {
            "sharing": self.sharing.model_dump(mode="json"),
            "units_in_an_epoch": dict(zip(self.plans, self.counts, strict=True)),
            "trained_parameters": self.trained_parameters(),
            "tasks": summaries,
        }

    def trained_parameters(self) -> int:
        """Return the number of trained weights; the weights of a shared adapter count once."""
        plans = list(self.plans.values())
        total = sum(plan.trained_parameters() for plan in plans)
        if self.shared:
            total -= sum(_count_acting(plan.assembly) for plan in plans[1:])
        return total

    def check(self) -> None:
        """Raise :class:`UsageError` for tasks that cannot be trained together."""
        by_half: dict[str, str] = {}
        for name, plan in self.plans.items():
            by_half.setdefault(plan.assembly.head.reads, name)
            if self.several and (plan.options.cache or plan.unlabelled):
                option = "cache" if plan.options.cache else "unlabelled"
                raise UsageError(f"--{option} cannot be combined with several tasks: {PASS_OPTIONS[option]}")
            if self.shared and plan.options.learn_from == "pairs":
                raise UsageError(
                    f"--learn-from pairs trains an adapter without its head, and {name!r} shares its adapter: give "
                    f"--sharing passes, or --learn-from labels"
                )
            if plan.backbone.encoder_decoder and len(by_half) > 1:
                (first_half, first), (half, second) = by_half.items()
                raise UsageError(
                    f"{first!r} reads the {first_half}, {second!r} the {half}: they have no pass in common"
                )
        shapes = [_shapes_acting(plan.assembly) for plan in self.plans.values()]
        if self.shared and any(shape != shapes[0] for shape in shapes):
            raise UsageError(
                "the tasks do not adapt the same ports, so they cannot share one adapter: use --sharing passes"
            )


def completed(tasks: Mapping[str, TaskSettings], sharing: SharingOptions) -> dict[str, TaskSettings]:
    """Return the settings with all training and method options, checked as far as possible without data.

    Missing options come from the recipe of each task for its method; of tasks that share an adapter, from the recipe
    of the first task. Raises :class:`UsageError` for invalid settings, and where tasks that share an adapter differ.
    """
    shared = sharing.shared and len(tasks) > 1
    first = next(iter(tasks.values()))
    complete = {}
    for name, settings in tasks.items():
        with _naming(name, len(tasks) > 1):
            options = merge_options(first.task if shared else settings.task, settings.method, settings.training)
            method_options = {**options.method_options, **settings.method_options}
            method_options = checked_options("method", settings.method, method_options)
            make_methods(settings.method, method_options)
            make_task(settings.task, settings.task_options)
        training = options.model_dump(mode="json", exclude={"method_options"})
        complete[name] = replace(settings, training=training, method_options=method_options)
    if shared:
        _check_equal(complete)
    return complete


def _check_equal(tasks: Mapping[str, TaskSettings]) -> None:
    """Raise :class:`UsageError` where tasks that share one adapter have different settings of it."""
    (first, settings), *others = tasks.items()
    for name, entry in others:
        keys = TrainingOptions.model_fields.keys() & settings.training.keys() - TASK_OPTIONS
        differing = ["method"] if entry.method != settings.method else []
        # The options of two methods differ anyway, and so do the recipes.
        if not differing:
            differing += ["method_options"] if entry.method_options != settings.method_options else []
            differing += sorted(key for key in keys if entry.training[key] != settings.training[key])
        if differing:
            raise UsageError(
                f"{first!r} and {name!r} share one adapter but differ in {', '.join(differing)}: give the same to all "
                f"tasks, or an adapter to each with --sharing passes"
            )


def plan_run(
    backbone: Backbone,
    tasks: Mapping[str, TaskSettings],
    sharing: SharingOptions | None = None,
    data: SharedData | None = None,
) -> RunPlan:
    """Plan a run of one task or several; ``data`` has that of earlier plans, which is not read again.

    Raises the errors of :func:`completed`, :func:`draft` and :meth:`RunPlan.check`.
    """
    sharing, data = sharing or SharingOptions(), data or SharedData()
    several, shared = len(tasks) > 1, len(tasks) > 1 and sharing.shared
    if several:
        check_names(tasks)
    plans = {}
    for name, entry in completed(tasks, sharing).items():
        undivided = entry.may_undivide and not shared
        # Not the method options of this task's own recipe, where the first task's recipe decides.
        options = entry.training if undivided else {**entry.training, "method_options": entry.method_options}
        with _naming(name, several):
            plans[name] = draft(
                *(backbone, entry.task, entry.method, entry.source, options, entry.method_options, entry.task_options),
                may_undivide=undivided,
                shared=data,
            )
    run_plan = RunPlan(plans, sharing, [entry.weight for entry in tasks.values()])
    run_plan.check()
    others_choose = shared and any(plan.criterion.decisive for plan in plans.values())
    instead, counts = "the other tasks choose it" if others_choose else LAST_KEPT, run_plan.counts
    for (name, plan), count in zip(plans.items(), counts, strict=True):
        with _naming(name, several):
            settle(plan, tasks[name].method, sum(counts) if shared else count, instead)
    return run_plan


@contextmanager
def _naming(name: str, several: bool) -> Iterator[None]:
    """Put the name of a task in front of an error, where there are several."""
    try:
        yield
    except AdaptError as error:
        if several:
            error.args = (f"{name}: {error}",)
        raise


def check_names(names: Collection[str]) -> None:
    """Raise :class:`UsageError` for fewer than two tasks, and for names that cannot be a folder."""
    if len(names) < 2:
        raise UsageError(f"there is {len(names) or 'no'} task to train together: name two or more")
    wrong = next((name for name in names if not NAME.fullmatch(name)), None)
    if wrong is not None:
        raise UsageError(f"the name {wrong!r} of a task: 1 to 200 letters, digits, '_', '-' and '.', no '.' in front")


def _shapes_acting(assembly: Assembly) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in assembly.shapes().items() if not name.startswith(f"{HEAD}.")}


def _count_acting(assembly: Assembly) -> int:
    return sum(
        torch.Size(declared.shape).numel()
        for place, _, declared in assembly.declared()
        if declared.trained and place != HEAD
    )
