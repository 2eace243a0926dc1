"""The entry to training: a task and its data, or a plan, becomes an adapter file in a run's folder."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.few_labels import choose_by_folds
from adaptdock.engine.training.hyperparameters import with_precision
from adaptdock.engine.training.plan import Plan
from adaptdock.engine.training.plan import plan as make_plan
from adaptdock.engine.training.progress import Progress
from adaptdock.engine.training.run import train_plan
from adaptdock.engine.training.run_folders import fresh_folder, owned_by_first
from adaptdock.engine.training.self_training import SelfTraining
from adaptdock.engine.training.task_run import Result
from adaptdock.plugins import registry
from adaptdock.plugins.arguments import file_path, mapping, of_type
from adaptdock.plugins.contracts import Backbone, LoadOptions
from adaptdock.plugins.sequences import text

DATA = "the data (where it is not a Source)"


def train(
    task: str,
    method: str = registry.DEFAULT_METHOD,
    backbone: str | Path | Backbone = registry.DEFAULT_BACKBONE,
    data: str | Path | Source | None = None,
    folder: str | Path | None = None,
    method_options: Mapping[str, Any] | None = None,
    task_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Train an adapter; the result's ``file`` is complete, and its ``adapter`` can be docked.

    ``task`` and ``method`` are names of plugins (``adapt plugins`` lists them), ``backbone`` is a name, or a loaded
    one (``dock.backbone``). ``data`` is a folder, a file, a hub name or a :class:`Source`; None trains on the task's
    sample. ``options`` are those of :class:`TrainingOptions` (``epochs``, ``learning_rate``, ``seed``, ...).
    ``folder`` is a new one under ``runs`` unless named.

    Returns a :class:`Result`: ``file`` with its ``size`` in bytes, ``adapter``, ``epochs``, ``seconds``, ``history``.
    Raises :class:`UnknownNameError` for a plugin that does not exist, :class:`UsageError` for options and arguments
    that are not valid, :class:`DataError` for data that cannot be used, :class:`BackboneError` where the backbone
    cannot be loaded or lacks a port, and :class:`LockedError` where another run works in the folder.

    >>> from adaptdock import Dock, train
    >>> dock = Dock.open("minilm")
    >>> result = train("ner", backbone=dock.backbone, data="people.conll", folder="runs/people", epochs=1)
    >>> result.file.name, result.ending, sorted(result.adapter.card.metrics)
    ('best.safetensors', 'complete', ['validation'])
    >>> dock.load(result.file)
    'ner'
    """
    text(task, "the name of a task")
    text(method, "the name of a method")
    method_options = mapping(method_options, "method_options", "{'rank': 8}")
    task_options = mapping(task_options, "task_options", "{'calibrate': True}")
    source = data if isinstance(data, Source) else Source(data=None if data is None else str(file_path(data, DATA)))
    place = None if folder is None else file_path(folder, "the folder of the run")
    if isinstance(backbone, str | Path):
        backbone = load_backbone(str(backbone), with_precision(LoadOptions(), options.get("precision", "auto")))
    of_type(backbone, Backbone, "the backbone is a name, a path or a loaded backbone (dock.backbone)")
    plan = make_plan(backbone, task, method, source, options, method_options, task_options)
    return carry_out(plan, place or fresh_folder(task, method))


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
    with owned_by_first(folder):
        if plan.unlabelled:
            return SelfTraining(plan, folder, name)(progress, resume)
        folds = partial(choose_by_folds, plan, folder, progress) if plan.undivided else None
        return train_plan(plan, folder, name, progress, resume, folds)
