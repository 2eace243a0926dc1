"""Several tasks trained together: on one adapter with a head each, or each on its own in the same passes.

On one *shared adapter* rows of all tasks share batches, and the loss of a batch is the mean over its rows, each row by
its own task's head. *Own adapters* are members with batches, optimiser, schedule and epochs of their own; a pass
forward and back joins the next batch of each, and a member's steps are those that it would have taken alone.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from adaptdock.engine.core.assembly import HEAD, Assembly
from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.evaluation.selection import LAST_KEPT, too_few
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.hyperparameters import lengthened, merge_options
from adaptdock.engine.training.members import Member, Members
from adaptdock.engine.training.plan import Plan, draft
from adaptdock.engine.training.run import Run
from adaptdock.engine.training.schedules import check as check_schedules
from adaptdock.engine.training.task_run import TaskRun
from adaptdock.engine.training.task_sampling import Sampling, draws, shares
from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Options

NAME = re.compile(r"[\w-][\w.-]{0,199}")


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


def joint_run(plan: JointPlan, folder: Path) -> Run:
    """Return the run of several tasks; each has a folder in that of the run with its name, as if trained alone."""
    check_alone("training several tasks together")
    first = next(iter(plan.plans.values()))
    dock, counts = Dock(first.backbone), plan.counts
    together = {**plan.sharing.model_dump(mode="json"), "tasks": dict(zip(plan.plans, counts, strict=True))}
    tasks = [TaskRun(own, dock, folder / name, name, together) for name, own in plan.plans.items()]
    if plan.sharing.shared:
        members = [Member(tasks, 0, counts)]
    else:
        members = [Member([task], n, [count]) for n, (task, count) in enumerate(zip(tasks, counts, strict=True))]
    sharing = {"tasks and their shares": f"{plan.sharing.model_dump_json()} {plan.weights}"}
    return Run(Members(dock, members, sharing), folder)
