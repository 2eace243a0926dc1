"""The entry to training: a task and its data, or a plan, becomes an adapter file in a run's folder."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from adaptdock.engine.core.assembly import validated
from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.folders import SPLITS
from adaptdock.engine.data.objects import Table, table_of
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import planned_run
from adaptdock.engine.training.loop.run_folders import IDENTITY, fresh_folder, owned_by_first
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.hyperparameters import merge_options, with_precision
from adaptdock.engine.training.planning.plan import plan as make_plan
from adaptdock.engine.training.planning.run_plan import RunPlan
from adaptdock.engine.training.repeats.few_labels import choose_by_folds
from adaptdock.engine.training.repeats.seeds import SeedOptions, train_seeds
from adaptdock.engine.training.repeats.self_training import SelfTraining
from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.arguments import file_path, mapping, of_type, refusal
from adaptdock.plugins.contracts import Backbone, LoadOptions
from adaptdock.plugins.sequences import text

DATA = "the data (where it is not a Source)"


def train(
    task: str,
    method: str = registry.DEFAULT_METHOD,
    backbone: str | Path | Backbone = registry.DEFAULT_BACKBONE,
    data: Any = None,
    folder: str | Path | None = None,
    method_options: Mapping[str, Any] | None = None,
    task_options: Mapping[str, Any] | None = None,
    *,
    columns: Mapping[str, str | int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
    seeds: int | None = None,
    **options: Any,
) -> Result:
    """Train an adapter; the result's ``file`` is complete, and its ``adapter`` can be docked.

    ``task`` and ``method`` are names of plugins (``adapt plugins`` lists them), ``backbone`` is a name, or a loaded
    one (``dock.backbone``). ``options`` are those of :class:`TrainingOptions` (``epochs``, ``learning_rate``, ``seed``,
    ...). ``folder`` is a new one under ``runs`` unless named.

    ``data`` is a folder, a file, a hub name or a :class:`Source`; a list or an iterator of dicts; a data frame of
    pandas or polars, a table of pyarrow; a ``datasets.Dataset`` or ``DatasetDict``; or a dict with such data for
    ``train``, ``validation`` and ``test``. None trains on the task's sample. ``columns`` says which column holds a
    field of the task (``{"tags": "ner"}``), like ``--columns``. ``progress`` is called with a :class:`Progress` after
    each validation and at each logged loss. With ``resume`` the run in ``folder`` continues from its last checkpoint:
    the data must have the same content. With ``seeds`` that many runs, which differ in the seed alone, train in one
    pass; the card's ``training["seeds"]`` has the spread of each metric, and the file is that of the best run on
    validation data. Their progress has the metrics by seed (``seed-0``).

    Returns a :class:`Result`: ``file`` with its ``size`` in bytes, ``adapter``, ``epochs``, ``seconds``, ``history``.
    Raises :class:`UnknownNameError` for a plugin that does not exist, :class:`UsageError` for options and arguments
    that are not valid, :class:`DataError` for data that cannot be used, :class:`BackboneError` where the backbone
    cannot be loaded or lacks a port, and :class:`LockedError` where another run works in the folder.

    >>> from adaptdock import Dock, train
    >>> dock = Dock.open("minilm")
    >>> result = train("ner", backbone=dock.backbone, data="people.conll", folder="runs/people", epochs=1)
    >>> result.file.name, result.ending, sorted(result.adapter.card.metrics)
    ('best.safetensors', 'complete', ['folds'])
    >>> dock.load(result.file)
    'ner'
    """
    text(task, "the name of a task")
    text(method, "the name of a method")
    method_options = mapping(method_options, "method_options", "{'rank': 8}")
    task_options = mapping(task_options, "task_options", "{'calibrate': True}")
    source = _source(data, _columns(columns))
    place = None if folder is None else file_path(folder, "the folder of the run")
    if progress is not None and not callable(progress):
        raise UsageError(refusal(progress, "progress is a function that takes a Progress"))
    if of_type(resume, bool, "resume is True or False") and (place is None or not (place / IDENTITY).is_file()):
        raise UsageError(f"resume=True needs the folder of a run that has begun; found folder={folder!r}")
    seeds = _seeds(seeds, options)
    precision = merge_options(task, method, options).precision  # wrong options are refused before anything is loaded
    if isinstance(backbone, str | Path):
        backbone = load_backbone(str(backbone), with_precision(LoadOptions(), precision))
    of_type(backbone, Backbone, "the backbone is a name, a path or a loaded backbone (dock.backbone)")
    plan = make_plan(backbone, task, method, source, options, method_options, task_options)
    return carry_out(RunPlan.of(plan), place or fresh_folder(task, method), progress, resume, seeds)[task]


def _seeds(seeds: Any, options: Mapping[str, Any]) -> int | None:
    seed_options = validated(SeedOptions, {"seeds": seeds}, "seeds")
    seed_options.check({"--unlabelled": options.get("unlabelled")})
    return seed_options.seeds


def _columns(columns: Any) -> dict[str, str]:
    """Return field -> column; unnamed columns have numbers."""
    fields = mapping(columns, "columns", "{'tags': 'ner'}")
    for field, column in fields.items():
        if not isinstance(column, str | int) or isinstance(column, bool):
            raise UsageError(refusal(column, f"the column of {field!r} is a name, or a number from 0"))
    return {field: str(column) for field, column in fields.items()}


def _source(data: Any, columns: Mapping[str, str]) -> Source:
    """Return the source of an argument ``data``; each key of a dict is a split."""
    if isinstance(data, Source):
        return replace(data, columns={**data.columns, **columns})
    if data is None:
        return Source(columns=columns)
    if isinstance(data, Mapping):
        return replace(Source(columns=columns), **_splits(data))
    return Source(data=_part(data, "data"), columns=columns)


def _part(data: Any, name: str) -> str | Table:
    """Return a file's path, or the table of an object."""
    return str(file_path(data, DATA)) if isinstance(data, str | PathLike) else table_of(data, name)


def _splits(data: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the file or table of each split.

    Raises :class:`UsageError` for an unknown split, for a split with two names, and without training data.
    """
    names: dict[str, Any] = {}
    for name in data:
        split = next((split for split, accepted in SPLITS.items() if name in accepted), None)
        if split is None:
            raise UsageError(
                f"a dict of data has the splits {', '.join(SPLITS)} as keys; found {name!r:.60}. A dict of columns can "
                f"be given as pandas.DataFrame(data), a single record in a list"
            )
        if split in names:
            raise UsageError(f"the data name the {split} split twice: {names[split]!r} and {name!r}")
        names[split] = name
    if "train" not in names:
        raise UsageError(f"the data have no 'train' split; found {', '.join(map(repr, data)) or 'an empty dict'}")
    return {split: _part(data[name], name) for split, name in names.items()}


def carry_out(
    run_plan: RunPlan,
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
    seeds: int | None = None,
) -> dict[str, Result]:
    """Train what a plan says: in one run, or in several where there are ``seeds``, unlabelled texts or few labels.

    Returns a result for each task by its name. Raises :class:`LockedError` where another run works in the folder.
    """
    plans = run_plan.plans
    unlabelled = any(plan.unlabelled for plan in plans.values())
    if unlabelled:
        check_alone("training with --unlabelled")
    with owned_by_first(folder):
        if unlabelled:  # RunPlan.check() has refused several tasks
            return {name: SelfTraining(plan, folder, name)(progress, resume) for name, plan in plans.items()}
        if seeds:  # SeedOptions and RunPlan.check() have refused several tasks
            return {name: train_seeds(plan, seeds, folder, name, progress, resume) for name, plan in plans.items()}
        try_folds = {
            name: partial(choose_by_folds, plan, run_plan.folder(folder, name), _staged(progress, name, run_plan))
            for name, plan in plans.items()
            if plan.undivided
        }
        results = planned_run(run_plan, folder, try_folds)(progress, resume)
        return dict(zip(plans, results, strict=True))


def _staged(
    progress: Callable[[Progress], None] | None, name: str, run_plan: RunPlan
) -> Callable[[Progress], None] | None:
    """Return a callback that puts a task's name before the stage, where there are several tasks."""
    if progress is None or not run_plan.several:
        return progress
    return lambda now: progress(replace(now, stage=f"{name}, {now.stage}"))
