"""``adapt train``: an adapter trained on a frozen backbone, and saved as one file."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.config import check_keys, read_config
from adaptdock.cli.common.flags import (
    DATA,
    LOADING,
    MAIN,
    OUTPUT,
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
from adaptdock.cli.training import multitask
from adaptdock.cli.training.cross_validation import try_folds
from adaptdock.cli.training.output_paths import LOG, check_places, clear, run_folder
from adaptdock.cli.training.progress import watching
from adaptdock.cli.training.settings import Settings, decide, recall
from adaptdock.cli.training.summary import show_plan, show_result
from adaptdock.engine.core.assembly import validated
from adaptdock.engine.core.distributed import check_alone, placed, ranks
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.training.cross_validation import FoldOptions
from adaptdock.engine.training.hyperparameters import TrainingOptions, merge_options
from adaptdock.engine.training.plan import Plan, plan
from adaptdock.engine.training.task_run import Result
from adaptdock.engine.training.train import carry_out
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import LoadOptions

METHOD, BACKBONE, EXAMPLE_TASK = registry.DEFAULT_METHOD, registry.DEFAULT_BACKBONE, registry.EXAMPLE_TASK
WITH_RESUME = {"resume", "output", "overwrite", "as_json", "allow_untrained"}
NOT_IN_CONFIG = {"config", "resume", "dry_run", "verbose", "as_json", "help"}
DRY = {"dry_run", "verbose"}
"""Flags without a value, which are False unless they are given."""
FOLDING = field_flags(FoldOptions, "folds", DATA)
HELP = """Train an adapter on a frozen backbone and save it as one file.

With no data named, the sample data of the task is used. What is not given comes from the task's
tuned recipe for the method. The flags of the method and the task depend on which ones are chosen:
adapt train --task ner --method prefix --help shows those of ner and prefix."""


class Train(click.Command):
    """Stands for the command until its arguments say which method and task it has flags for."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Build the command that fits the arguments, and parse them with it."""
        real = _build(args)
        real.params += [parameter for parameter in self.params if parameter not in real.params]
        return real.make_context(info_name, args, parent, **extra)


command = Train("train", help=HELP)


@dataclass(frozen=True)
class Chosen:
    """The flags of the method and task that arguments and configuration choose, and that configuration."""

    config: dict[str, Any]
    config_path: Path | None
    training: FieldFlags
    method: FieldFlags
    task: FieldFlags


def _build(arguments: Sequence[str]) -> SectionedCommand:
    config, path = _configured(arguments)
    tasks = peek(arguments, "tasks") or config.get("tasks")
    if tasks:
        return multitask.build(arguments, config, path, tasks)
    chosen, fixed = choose(arguments), what_flags()
    flags = [*fixed, *chosen.method.flags, *chosen.task.flags, *chosen.training.flags, *LOADING.flags, *_output_flags()]

    def callback(**values: Any) -> int:
        return _train(values, chosen)

    real = SectionedCommand("train", help=HELP, params=list(flags), callback=callback)
    if chosen.config_path is not None:
        known = [str(flag.name) for flag in flags if flag.name not in NOT_IN_CONFIG]
        check_keys(chosen.config_path, chosen.config, known, "adapt train with this task and method")
    return real


def choose(arguments: Sequence[str], method: str | None = None) -> Chosen:
    """Return the flags that arguments make possible, with a method other than theirs where one is named."""
    config, path = _configured(arguments)
    method = method or peek(arguments, "method") or config.get("method") or METHOD
    given = peek(arguments, "task") or config.get("task")
    task = given or EXAMPLE_TASK
    recipe = merge_options(task, method, {})
    training = field_flags(TrainingOptions, "training", "Training", shown=recipe.model_dump())
    reserved = {flag.name for flag in [*what_flags(), *LOADING.flags, *_output_flags(), *training.flags] if flag.name}
    of_method = field_flags(
        registry.load("method", method).Options, "method", f"Method {method}", reserved, recipe.method_options
    )
    title = f"Task {task}" if given else f"Task {task} (for example; --task chooses)"
    of_task = field_flags(registry.load("task", task).Options, "task", title, reserved | of_method.fields.keys())
    return Chosen(config, path, training, of_method, of_task)


def _configured(arguments: Sequence[str]) -> tuple[dict[str, Any], Path | None]:
    """Return what the file of ``--config`` says, and its path; nothing where none is named."""
    named = peek(arguments, "config")
    return ({}, None) if named is None else (read_config(Path(named)), Path(named))


def what_flags() -> list[Flag]:
    """Return the options that say what is trained, and on what."""
    splits = {
        "train": "Training data, as a file.",
        "validation": "Validation data; a tenth of the training data is held out unless given.",
        "test": "Test data, measured once at the end.",
    }
    tasks = "|".join(registry.names("task"))
    return [
        Flag(["--task"], section=MAIN, metavar=f"[{tasks}]", help="What the adapter is for.", shown="required"),
        *how_flags(),
        Flag(
            ["--tasks"],
            section=MAIN,
            metavar="FILE",
            help="Several tasks in place of one, named in a YAML or TOML file: adapt train --tasks FILE --help.",
        ),
        Flag(["--resume"], section=MAIN, metavar="RUN_DIR", help="Go on with a run that was interrupted."),
        *dry_run_flags(),
        *data_flags(splits),
        *FOLDING.flags,
    ]


def _output_flags() -> list[Flag]:
    allow = "Exit with status 0 although the adapter is untrained, or no better than one answer to every input."
    return [
        *output_flags(
            Place("The adapter file.", "TASK.safetensors", "FILE"),
            Place("Folder of the run: settings, metrics, log, curves, checkpoints.", "runs/TASK-METHOD-TIME"),
        ),
        Flag(["--allow-untrained"], section=OUTPUT, is_flag=True, default=None, help=allow, shown="default: exit 1"),
    ]


# ------------------------------------------------------------------------------------------- the work


def _train(values: dict[str, Any], chosen: Chosen) -> int:
    check_verbose(values)
    if values["resume"]:
        return _resume(values)
    values = {name: chosen.config.get(name) if value in (None, ()) else value for name, value in values.items()}
    values = {**values, "method": values["method"] or METHOD, "backbone": values["backbone"] or BACKBONE}
    values["columns"] = values["columns"] or ()
    folding = validated(FoldOptions, FOLDING.given(values), "folds")
    if folding.folds:
        check_alone("adapt train --folds")
    _check_shared(load_options(values), values["unlabelled"])
    settings = decide(values, chosen.training, chosen.method, chosen.task)

    if values["dry_run"]:
        show_plan(_plan(settings), settings.method, values["as_json"], values["verbose"])
        return 0
    with run_folder(settings.run_dir, settings.automatic) as folder:
        return _begin(replace(settings, run_dir=folder), folding, values["as_json"], values["allow_untrained"])


def _begin(settings: Settings, folding: FoldOptions, as_json: bool, allow_untrained: bool) -> int:
    if ranks().first:
        check_places(settings, resume=False)
    made = _plan(settings)
    if ranks().first:
        clear(settings.run_dir)
        settings.write()
    folds = try_folds(made, settings, folding.folds, as_json) if folding.folds else None
    if folding.folds_only:
        if as_json:
            show_json(folds)
        return 0
    return _run(made, settings, as_json, settings.overwrite, allow_untrained, folds=folds)


def _resume(values: dict[str, Any]) -> int:
    others = [name for name, value in values.items() if _is_given(name, value)]
    if others:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise UsageError(f"a resumed run keeps its settings, so --resume does not go with {flags}")
    if multitask.is_joint(Path(values["resume"])):
        check_alone("adapt train --tasks")
        return multitask.resume(Path(values["resume"]), values["output"], bool(values["overwrite"]), values["as_json"])
    settings = recall(Path(values["resume"]), values["output"], bool(values["overwrite"]))
    _check_shared(settings.load, settings.training["unlabelled"])
    with run_folder(settings.run_dir):
        if ranks().first:
            check_places(settings, resume=True)
        its_own = settings.output.exists()  # else it would have been refused
        replaces, allowed = settings.overwrite or its_own, values["allow_untrained"]
        return _run(_plan(settings), settings, values["as_json"], replaces, allowed, resume=True)


def _is_given(name: str, value: Any) -> bool:
    """Tell whether a flag that does not go with --resume stands on the command line."""
    return name not in WITH_RESUME and value not in (None, ()) and (value or name not in DRY)


def _check_shared(load: LoadOptions, unlabelled: str | None) -> None:
    """Refuse what several processes can't do, before any work and before they wait for each other."""
    placed(load)
    if unlabelled:
        check_alone("adapt train --unlabelled")


def _plan(settings: Settings) -> Plan:
    made = plan(
        load_backbone(settings.backbone, settings.load),
        settings.task,
        settings.method,
        settings.source,
        settings.training,
        settings.method_options,
        settings.task_options,
    )
    for line in made.notes:
        note(line)
    return made


def _run(
    made: Plan,
    settings: Settings,
    as_json: bool,
    replaces: bool,
    allow_untrained: bool,
    resume: bool = False,
    folds: Mapping[str, Any] | None = None,
) -> int:
    with watching(settings.run_dir / LOG) if ranks().first else nullcontext() as watch:
        result = carry_out(made, settings.run_dir, settings.name, watch, resume)
    if not ranks().first:
        return 0 if result.ending != "interrupted" else 130
    verdict = _report(settings.run_dir, made, result)
    write_file(settings.output, result.adapter, replaces)
    show_result(made, result, settings.output, settings.run_dir, verdict, as_json, folds)
    if result.ending != "interrupted":
        return 1 if result.shortfall and not allow_untrained else 0
    note(f"Interrupted: the best adapter so far is in {settings.output}. Go on with --resume {settings.run_dir}")
    return 130


def _report(folder: Path, made: Plan, result: Result) -> list[str]:
    try:
        return result.report(folder, made)
    except OSError as error:  # the adapter is saved; a full disk must not hide that
        return [f"The report in {folder} could not be written: {error.strerror or error}."]
