"""Several tasks trained together: one adapter with a head per task, or an adapter per task in shared passes.

With one *shared adapter* rows of all tasks share batches; the loss of a batch is the mean over its rows, each from the
head of its task. *Separate adapters* are members with their own batches, optimiser, schedule and epochs. A forward and
backward pass joins the next batch of each member, and a member takes the same steps as alone.
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
    """adapter: one adapter for all tasks, with a head for each; passes: an adapter for each task, in shared passes."""
    sampling: Sampling = "proportional"
    """Sampling rate of a task: by the size of its data, by the evened-out size, or equal for all."""
    temperature: float = Field(5.0, gt=0)
    """Temperature T of temperature sampling: shares are sizes to the power of 1/T; 1 is proportional."""

    @property
    def shared(self) -> bool:
        """Whether all tasks train one adapter."""
        return self.sharing == "adapter"


class TaskEntry(Options):
    """One of several tasks that are trained together; its name is also the adapter's name."""

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
    """Factor on the sampling rate of the task."""

    @property
    def source(self) -> Source:
        """The data of the task."""
        return Source(**self.model_dump(include={*Source.__dataclass_fields__}))


@dataclass
class JointPlan:
    """Every decision before the first step: a plan for each task by its name."""

    plans: dict[str, Plan]
    sharing: SharingOptions
    weights: list[float]
    notes: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        """The units of each task."""
        return [len(plan.units) for plan in self.plans.values()]

    @property
    def counts(self) -> list[int]:
        """The units of each task in an epoch."""
        sharing = self.sharing
        return draws(self.sizes, shares(self.sizes, self.weights, sharing.sampling, sharing.temperature))

    def summary(self) -> dict[str, Any]:
        """Return the plan as JSON for ``--dry-run`` and the run's folder."""
        names = list(self.plans)
        return {
            "sharing": self.sharing.model_dump(mode="json"),
            "units_in_an_epoch": dict(zip(names, self.counts, strict=True)),
            "trained_parameters": self.trained_parameters(),
            "tasks": {name: plan.summary() for name, plan in self.plans.items()},
        }

    def trained_parameters(self) -> int:
        """Return the number of trained weights; the weights of a shared adapter count once."""
        plans = list(self.plans.values())
        total = sum(plan.trained_parameters() for plan in plans)
        if self.sharing.shared:
            total -= sum(_count_acting(plan.assembly) for plan in plans[1:])
        return total


def plan_jointly(
    backbone: Backbone,
    tasks: Mapping[str, TaskEntry],
    method: str = registry.DEFAULT_METHOD,
    sharing: SharingOptions | None = None,
    options: Mapping[str, Any] | None = None,
    method_options: Mapping[str, Any] | None = None,
) -> JointPlan:
    """Plan several tasks; missing options come from the first task's recipe for the method.

    Raises the errors of :func:`draft`, and :class:`UsageError` for tasks that cannot be trained together.
    """
    sharing = sharing or SharingOptions()
    check_names(tasks)
    first = next(iter(tasks.values())).task
    training = merge_options(first, method, options or {})
    if training.cache:
        raise UsageError("--cache stores the states of one task's texts: it cannot be combined with several tasks")
    if training.unlabelled:
        raise UsageError("--unlabelled names texts for one task to label: it cannot be combined with several tasks")
    if training.learn_from == "pairs":
        raise UsageError("--learn-from pairs fits the head of one task: it cannot be combined with several tasks")
    shared_options = {**training.model_dump(), "method_options": {**training.method_options, **(method_options or {})}}
    plans: dict[str, Plan] = {}
    notes = []
    for name, entry in tasks.items():
        plan = draft(backbone, entry.task, method, entry.source, shared_options, None, entry.options)
        plans[name] = plan
        notes += [f"{name}: {line}" for line in plan.notes]
    _check_compatible(plans, sharing)
    joint_plan = JointPlan(plans, sharing, [entry.weight for entry in tasks.values()], notes)
    for name, plan, count in zip(plans, plans.values(), joint_plan.counts, strict=True):
        plan.options, step_notes = lengthened(plan.options, sum(joint_plan.counts) if sharing.shared else count)
        check_schedules(plan.backbone, plan.assembly, plan.options)
        lines = step_notes if sharing.shared else [f"{name}: {line}" for line in step_notes]
        notes += [line for line in lines if line not in notes]
    joint_plan.notes += _too_few(joint_plan)
    return joint_plan


def _too_few(joint_plan: JointPlan) -> list[str]:
    """Return a note for each task with too little validation data to choose an epoch."""
    others_choose = joint_plan.sharing.shared and any(plan.criterion.decisive for plan in joint_plan.plans.values())
    instead = "the other tasks choose it" if others_choose else LAST_KEPT
    return [
        f"{name}: {line}"
        for name, plan in joint_plan.plans.items()
        for line in too_few(plan.task, plan.records["validation"], instead)
    ]


def check_names(names: Collection[str]) -> None:
    """Raise :class:`UsageError` for fewer than two tasks, and for names that cannot be a folder."""
    if len(names) < 2:
        raise UsageError(f"there is {len(names) or 'no'} task to train together: name two or more")
    wrong = next((name for name in names if not NAME.fullmatch(name)), None)
    if wrong is not None:
        raise UsageError(f"the name {wrong!r} of a task: 1 to 200 letters, digits, '_', '-' and '.', no '.' in front")


def _check_compatible(plans: Mapping[str, Plan], sharing: SharingOptions) -> None:
    by_half: dict[str, str] = {}
    for name, plan in plans.items():
        by_half.setdefault(plan.assembly.head.reads, name)
    if plan.backbone.encoder_decoder and len(by_half) > 1:
        (first_half, first), (second_half, second) = by_half.items()
        raise UsageError(f"{first!r} reads the {first_half}, {second!r} the {second_half}: they have no pass in common")
    pass_options = [(plan.options.backbone_dropout, plan.options.gradient_accumulation) for plan in plans.values()]
    if len(set(pass_options)) > 1:
        raise UsageError(
            "tasks in the same passes need the same --backbone-dropout and --gradient-accumulation: give both"
        )
    if sharing.shared:
        shapes = [_shapes_acting(plan.assembly) for plan in plans.values()]
        if any(shape != shapes[0] for shape in shapes):
            raise UsageError(
                "the tasks do not adapt the same ports, so they cannot share one adapter: use --sharing passes"
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
    """Return the run of several tasks; each task has a subfolder with its name, with the files of a run of its own."""
    check_alone("training several tasks together")
    first = next(iter(plan.plans.values()))
    dock, counts = Dock(first.backbone), plan.counts
    together = {**plan.sharing.model_dump(mode="json"), "tasks": dict(zip(plan.plans, counts, strict=True))}
    tasks = [TaskRun(task_plan, dock, folder / name, name, together) for name, task_plan in plan.plans.items()]
    if plan.sharing.shared:
        members = [Member(tasks, 0, counts)]
    else:
        members = [Member([task], n, [count]) for n, (task, count) in enumerate(zip(tasks, counts, strict=True))]
    sharing = {"tasks and their shares": f"{plan.sharing.model_dump_json()} {plan.weights}"}
    return Run(Members(dock, members, sharing), folder)
