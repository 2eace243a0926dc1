"""The entry to training: a task and its data, or a plan, becomes an adapter file in a run's folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.contract import Progress
from adaptdock.engine.training.hyperparameters import with_precision
from adaptdock.engine.training.plan import Plan
from adaptdock.engine.training.plan import plan as make_plan
from adaptdock.engine.training.run import Result, Run
from adaptdock.engine.training.run_folders import fresh_folder, owned_by_first
from adaptdock.engine.training.self_training import SelfTraining
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, LoadOptions


def train(
    task: str,
    method: str = registry.DEFAULT_METHOD,
    backbone: str | Backbone = registry.DEFAULT_BACKBONE,
    data: str | Source | None = None,
    folder: str | Path | None = None,
    method_options: Mapping[str, Any] | None = None,
    task_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Train an adapter; the result's ``file`` is complete, and its ``adapter`` can be docked.

    ``data`` is a folder, a hub name or a :class:`Source`; None trains on the task's sample. ``options``
    are those of :class:`TrainingOptions`. ``folder`` is a new one under ``runs`` unless named.
    """
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, with_precision(LoadOptions(), options.get("precision", "auto")))
    source = data if isinstance(data, Source) else Source(data=data)
    made = make_plan(backbone, task, method, source, options, method_options, task_options)
    return carry_out(made, Path(folder) if folder else fresh_folder(task, method))


def carry_out(
    plan: Plan,
    folder: Path,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
) -> Result:
    """Train what a plan says: in one run, or in several where there are texts without labels.

    Raises :class:`LockedError` where another run works in the folder.
    """
    if plan.unlabelled:
        check_alone("training with --unlabelled")
    run = SelfTraining(plan, folder, name) if plan.unlabelled else Run(plan, folder, name)
    with owned_by_first(folder):
        return run(progress, resume)
