"""``adapt train``: an adapter trained on a frozen backbone, and saved as one file."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.backbone import loaded
from adaptdock.cli.common.config import check_keys, read_config
from adaptdock.cli.common.flags import (
    DATA,
    LOADING,
    MAIN,
    OUTPUT,
    SHARDING,
    DeferredCommand,
    FieldFlags,
    Flag,
    Place,
    SectionedCommand,
    check_verbose,
    data_flags,
    dry_run_flags,
    field_flags,
    how_flags,
    load_options,
    output_flags,
    peek,
)
from adaptdock.cli.common.output import note, show_json
from adaptdock.cli.training.cross_validation import try_folds
from adaptdock.cli.training.label_shares import try_shares
from adaptdock.cli.training.output_paths import LOG, begin, check_places, run_folder
from adaptdock.cli.training.progress import watching
from adaptdock.cli.training.settings import Chosen, Settings, decide, recall
from adaptdock.cli.training.summary import show_plan, show_results
from adaptdock.cli.training.tasks_file import read_tasks
from adaptdock.engine.core.assembly import validated
from adaptdock.engine.core.distributed import check_alone, launcher_note, placed, ranks
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions, merge_options
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.planning.run_plan import RunPlan, SharingOptions, plan_run
from adaptdock.engine.training.repeats.cross_validation import FoldOptions
from adaptdock.engine.training.repeats.label_shares import CurveOptions
from adaptdock.engine.training.repeats.seeds import SeedOptions
from adaptdock.engine.training.train import carry_out
from adaptdock.errors import TakenError, UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins import registry

METHOD, EXAMPLE_TASK = registry.DEFAULT_METHOD, registry.EXAMPLE_TASK
WITH_RESUME = {"resume", "output", "overwrite", "as_json", "allow_untrained", "batch_size"}
NOT_IN_CONFIG = {"config", "resume", "dry_run", "verbose", "as_json", "help"}
DRY = {"dry_run", "verbose"}
"""Flags without a value, which are False unless they are given."""
FOLDING = field_flags(FoldOptions, "folds", DATA)
CURVE = field_flags(CurveOptions, "curve", DATA)
SEEDING = field_flags(SeedOptions, "seeds", "Training")
SHARING = field_flags(SharingOptions, "sharing", "Several tasks")
HELP = """Train an adapter on a frozen backbone and save it as one file.

Without data options, the task's sample data is used. Missing options come from the task's tuned
recipe for the method. Some flags depend on the method and the task:
adapt train --task ner --method prefix --help shows the flags of ner and prefix."""
HELP_SEVERAL = """Train several tasks together, and save an adapter file for each task.

The file of --tasks is a table: a name for each task, and below the name the keys task (by default the name), data
or train, validation and test, columns, format, encoding, options (of the task) and weight. The keys method,
method_options and those of the training options override the flags below for that task. Missing options come from
the recipe of each task for its method; of tasks that share an adapter, from the recipe of the first."""


def _build(arguments: Sequence[str]) -> SectionedCommand:
    choice = choose(arguments)
    flags: list[click.Parameter] = [
        *(several_flags() if choice.tables else what_flags()),
        *choice.sharing.flags,
        *choice.method.flags,
        *choice.task.flags,
        *choice.training.flags,
        *(() if choice.tables else SEEDING.flags),
        *LOADING.flags,
        SHARDING,
        *_output_flags(bool(choice.tables)),
    ]

    def callback(**values: Any) -> int:
        return _train(values, choice)

    if choice.config_path is not None:
        keys = [str(flag.name) for flag in flags if flag.name not in NOT_IN_CONFIG]
        command_name = (
            "adapt train --tasks with this method" if choice.tables else "adapt train with this task and method"
        )
        check_keys(choice.config_path, choice.config, keys, command_name)
    return SectionedCommand("train", help=HELP_SEVERAL if choice.tables else HELP, params=flags, callback=callback)


command = DeferredCommand("train", _build, HELP)


def choose(arguments: Sequence[str], method: str | None = None) -> Chosen:
    """Return the flags for the method and task, or tasks, in the arguments; ``method`` overrides theirs."""
    config, path = _configured(arguments)
    file = peek(arguments, "tasks") or config.get("tasks")
    if file:
        check_alone("adapt train --tasks")
    tables = read_tasks(Path(file)) if file else {}
    method = method or peek(arguments, "method") or config.get("method") or METHOD
    explicit_task = peek(arguments, "task") or config.get("task")
    task = next(iter(tables.values())).task if tables else explicit_task or EXAMPLE_TASK
    recipe = merge_options(task, method, {})
    sharing = SHARING if tables else FieldFlags("sharing", (), {})
    training = field_flags(TrainingOptions, "training", "Training", sharing.fields, recipe.model_dump())
    # The flags of adapt train keep their names; a method's or task's flag of the same name gets a prefix.
    of_tasks = [*sharing.flags, *LOADING.flags, SHARDING, *training.flags, *SEEDING.flags]
    fixed = [*(several_flags() if tables else what_flags()), *of_tasks]
    reserved = {flag.name for flag in [*fixed, *_output_flags(bool(tables))] if flag.name}
    method_flags = field_flags(
        registry.load("method", method).Options, "method", f"Method {method}", reserved, recipe.method_options
    )
    if tables:  # each table has the options of its task
        return Chosen(config, path, training, method_flags, FieldFlags("task", (), {}), sharing, tables)
    title = f"Task {task}" if explicit_task else f"Task {task} (for example; --task chooses)"
    task_flags = field_flags(registry.load("task", task).Options, "task", title, reserved | method_flags.fields.keys())
    return Chosen(config, path, training, method_flags, task_flags, sharing, tables)


def _configured(arguments: Sequence[str]) -> tuple[dict[str, Any], Path | None]:
    """Return the content of the ``--config`` file and its path, or ``({}, None)`` without one."""
    config_path = peek(arguments, "config")
    return ({}, None) if config_path is None else (read_config(Path(config_path)), Path(config_path))


def what_flags() -> list[Flag]:
    """Return the flags for task, method, backbone and data."""
    splits = {
        "train": "Training data, as a file.",
        "validation": "Validation data; by default a tenth of the training data is held out.",
        "test": "Test data, measured once at the end.",
    }
    tasks = "|".join(registry.names("task"))
    return [
        Flag(["--task"], section=MAIN, metavar=f"[{tasks}]", help="Task of the adapter.", shown="required"),
        *how_flags(),
        Flag(
            ["--tasks"],
            section=MAIN,
            metavar="FILE",
            help="YAML or TOML file of several tasks, in place of --task: adapt train --tasks FILE --help.",
        ),
        Flag(["--resume"], section=MAIN, metavar="RUN_DIR", help="Continue an interrupted run."),
        *dry_run_flags(),
        *data_flags(splits),
        *FOLDING.flags,
        *CURVE.flags,
    ]


def several_flags() -> list[Flag]:
    """Return the flags for tasks, method and backbone of ``--tasks``."""
    tasks = Flag(["--tasks"], section=MAIN, metavar="FILE", help="YAML or TOML file with the tasks.")
    return [tasks, *how_flags(), *dry_run_flags()]


def _output_flags(several: bool = False) -> list[Flag]:
    allow = "Exit with status 0 although an adapter is untrained, or no better than one answer to every input."
    output = Place("The adapter file.", "TASK.safetensors", "FILE")
    run_dir = Place("Folder of the run: settings, metrics, log, curves, checkpoints.", "runs/TASK-METHOD-TIME")
    if several:
        output = Place("Folder for a file of each task, NAME.safetensors.", "this folder")
        run_dir = Place("Folder of the run, with a subfolder for each task.", "runs/NAMES-METHODS-TIME")
    return [
        *output_flags(output, run_dir, named=not several),
        Flag(["--allow-untrained"], section=OUTPUT, is_flag=True, default=None, help=allow, shown="default: exit 1"),
    ]


# ------------------------------------------------------------------------------------------- the work


def _train(values: dict[str, Any], choice: Chosen) -> int:
    check_verbose(values)
    if values.get("resume"):
        return _resume(values)
    # Click sets an absent flag to None, and an absent flag that may be repeated to ().
    values = {name: choice.config.get(name) if value in (None, ()) else value for name, value in values.items()}
    folding = validated(FoldOptions, FOLDING.given(values), "folds")
    curve = validated(CurveOptions, CURVE.given(values), "curve").curve
    seeding = validated(SeedOptions, SEEDING.given(values), "seeds")
    unlabelled = choice.training.given(values).get("unlabelled")
    seeding.check({"--folds": folding.folds, "--curve": curve, "--unlabelled": unlabelled})
    if seeding.seeds:
        check_alone("adapt train --seeds")
    if folding.folds or curve:
        check_alone("adapt train --folds" if folding.folds else "adapt train --curve")
    placed(load_options(values))  # before a precision is chosen for the device
    settings = replace(decide(values, choice), seeds=seeding.seeds)
    _check_shared(settings)
    if values["dry_run"]:
        show_plan(_plan(settings), settings, values["as_json"], values["verbose"])
        return 0
    with run_folder(settings.run_dir, settings.automatic) as folder:
        settings = replace(settings, run_dir=folder)
        return _begin(settings, folding, curve, values["as_json"], values["allow_untrained"])


def _begin(
    settings: Settings, folding: FoldOptions, curve: Sequence[float], as_json: bool, allow_untrained: bool
) -> int:
    if ranks().first:
        check_places(settings, resume=False)
    # Before begin(): with --overwrite, a plan that fails must leave the earlier run as it was.
    run_plan = _plan(settings)
    if ranks().first:
        begin(settings)
    folds = None
    if folding.folds:
        (task_plan,) = run_plan.plans.values()  # there is no --folds with --tasks
        folds = try_folds(task_plan, settings, folding.folds, as_json)
    if curve:
        (task_plan,) = run_plan.plans.values()
        try_shares(task_plan, settings, curve, as_json)
    if folding.folds_only:
        if as_json:
            show_json(folds)
        return 0
    return _run(run_plan, settings, as_json, allow_untrained, folds=folds)


def _resume(values: dict[str, Any]) -> int:
    surplus = [name for name, value in values.items() if _is_given(name, value)]
    if surplus:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in surplus)
        raise UsageError(f"a resumed run keeps its settings, so --resume does not go with {flags}")
    settings = recall(Path(values["resume"]), values["output"], bool(values["overwrite"]))
    if ranks().count == 1:  # nobody to divide it with
        settings = replace(settings, load=settings.load.model_copy(update={"shard_backbone": False}))
    if values.get("batch_size") is not None:  # with another number of processes; the run checks the product
        settings = settings.with_batch_size(values["batch_size"])
    _check_shared(settings)
    with run_folder(settings.run_dir):
        if ranks().first:
            check_places(settings, resume=True)
        return _run(_plan(settings), settings, values["as_json"], values["allow_untrained"], resume=True)


def _is_given(name: str, value: Any) -> bool:
    """Return whether the command line has a flag that cannot be combined with --resume."""
    return name not in WITH_RESUME and value not in (None, ()) and (value or name not in DRY)


def _check_shared(settings: Settings) -> None:
    """Refuse options that several processes don't support, before the processes wait for each other."""
    placed(settings.load)
    remark = launcher_note()
    if remark:
        note(remark)
    if settings.several:
        check_alone("adapt train --tasks")
    if any(entry.training["unlabelled"] for entry in settings.tasks.values()):
        check_alone("adapt train --unlabelled")


def _plan(settings: Settings) -> RunPlan:
    backbone = loaded(settings.backbone, settings.load)
    if backbone.divided:
        note(f"backbone: {backbone.divided}")
    run_plan = plan_run(backbone, settings.tasks, settings.sharing)
    for line in run_plan.notes:
        note(line)
    return run_plan


def _run(
    run_plan: RunPlan,
    settings: Settings,
    as_json: bool,
    allow_untrained: bool,
    resume: bool = False,
    folds: Mapping[str, Any] | None = None,
) -> int:
    # check_places() has refused any output file but the resumed run's own.
    owned = {name for name, file in settings.files.items() if resume and file.exists()}
    with watching(settings.run_dir / LOG) if ranks().first else nullcontext() as watch:
        results = carry_out(run_plan, settings.run_dir, watch, resume, settings.seeds)
    interrupted = any(result.ending == "interrupted" for result in results.values())
    if not ranks().first:  # the first process alone writes and prints
        return 130 if interrupted else 0
    verdicts = {name: _report(settings.folders[name], run_plan.plans[name], results[name]) for name in results}
    _save(settings, results, owned)
    show_results(run_plan, settings, results, verdicts, as_json, folds)
    if interrupted:
        saved = f"adapter so far is in {settings.output}"
        saved = "adapters so far are saved" if settings.several else saved
        note(f"Interrupted: the best {saved}. Continue with --resume {settings.run_dir}")
        return 130
    return 1 if any(result.shortfall for result in results.values()) and not allow_untrained else 0


def _save(settings: Settings, results: Mapping[str, Result], owned: Collection[str]) -> None:
    """Write every file; raise :class:`TakenError` for the first path that another process took during training.

    The results of the other tasks are written all the same: one taken path must not lose them.
    """
    errors = []
    for name, result in results.items():
        try:
            write_file(settings.files[name], result.adapter, settings.overwrite or name in owned)
        except TakenError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _report(folder: Path, task_plan: Plan, result: Result) -> list[str]:
    try:
        return result.report(folder, task_plan)
    except OSError as error:  # a full disk must not hide the adapter
        return [f"The report in {folder} could not be written: {error.strerror or error}."]
