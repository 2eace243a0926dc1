"""``adapt train --tasks``: several tasks trained together, and a complete adapter file for each."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptdock.cli.common.config import check_keys, read_tables
from adaptdock.cli.common.flags import (
    LOADING,
    MAIN,
    FieldFlags,
    Flag,
    Place,
    SectionedCommand,
    check_verbose,
    dry_run_flags,
    field_flags,
    how_flags,
    load_options,
    output_flags,
    peek,
)
from adaptdock.cli.common.output import count, note, say, show_json, show_pairs, show_table
from adaptdock.cli.training.output_paths import LOG, check_folder, check_output, check_unfinished, clear, run_folder
from adaptdock.cli.training.progress import watching
from adaptdock.cli.training.settings import CONFIG, absolute_backbone, with_absolute_places
from adaptdock.cli.training.summary import setting_lines
from adaptdock.engine.core.assembly import checked_options, make_methods, make_task, validated
from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import parse_columns
from adaptdock.engine.training.hyperparameters import TrainingOptions, merge_options, with_precision
from adaptdock.engine.training.multitask import (
    JointPlan,
    SharingOptions,
    TaskEntry,
    check_names,
    joint_run,
    plan_jointly,
)
from adaptdock.engine.training.run_folders import BEST, run_name
from adaptdock.engine.training.task_run import Result
from adaptdock.errors import DataError, TakenError, UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import LoadOptions

METHOD, BACKBONE = registry.DEFAULT_METHOD, registry.DEFAULT_BACKBONE
SPLITS = ("data", "train", "validation", "test")
NOT_IN_CONFIG = {"config", "dry_run", "verbose", "as_json", "help"}
HELP = """Train several tasks together, and save an adapter file for each task.

The file of --tasks is a table: a name for each task, and below the name the keys task (by default the name), data
or train, validation and test, columns, format, encoding, options (of the task) and weight. Missing options come from
the recipe of the first task for the method."""


@dataclass(frozen=True)
class JointSettings:
    """Every decision of a run of several tasks; the run's folder stores it as config.json."""

    tasks: Mapping[str, TaskEntry]
    sharing: SharingOptions
    method: str
    backbone: str
    load: LoadOptions
    training: Mapping[str, Any]
    method_options: Mapping[str, Any]
    output: Path
    run_dir: Path
    overwrite: bool = False
    automatic: bool = False
    """Whether the run's folder has a generated name, which may get a number at its end."""

    def write(self) -> None:
        """Write the settings to the run's folder, with absolute paths."""
        content = {
            "tasks": {name: _in_any_folder(entry).model_dump(mode="json") for name, entry in self.tasks.items()},
            "sharing": self.sharing.model_dump(mode="json"),
            **{key: getattr(self, key) for key in ("method", "backbone", "overwrite")},
            "load": self.load.model_dump(mode="json"),
            "training": dict(self.training),
            "method_options": dict(self.method_options),
            "output": str(self.output.absolute()),
        }
        (self.run_dir / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def file(self, name: str) -> Path:
        """Return the path of a task's adapter file."""
        return self.output / f"{name}.safetensors"

    def check_places(self, resume: bool) -> None:
        """Raise if an output file or the run's folder is taken or cannot be written."""
        best = {name: self.run_dir / name / BEST for name in self.tasks}
        if resume:
            check_unfinished(self.run_dir, list(best.values()))
        for name in self.tasks:
            check_output(self.file(name), best[name], self.overwrite, resume)
        check_folder(self.run_dir, self.overwrite, resume)


def _in_any_folder(entry: TaskEntry) -> TaskEntry:
    paths = {key: Path(getattr(entry, key)) for key in SPLITS if getattr(entry, key)}
    return entry.model_copy(update={key: str(path.absolute()) for key, path in paths.items() if path.exists()})


# ------------------------------------------------------------------------------------------ command


def build(
    arguments: Sequence[str], config: Mapping[str, Any], config_path: Path | None, tasks: str
) -> SectionedCommand:
    """Return the command for several tasks, with the flags of the method in the arguments."""
    check_alone("adapt train --tasks")
    entries = read_tasks(Path(tasks))
    method = peek(arguments, "method") or config.get("method") or METHOD
    recipe = merge_options(next(iter(entries.values())).task, method, {})
    sharing = field_flags(SharingOptions, "sharing", "Several tasks")
    training = field_flags(TrainingOptions, "training", "Training", sharing.fields, recipe.model_dump())
    fixed_flags = [*_main_flags(), *sharing.flags, *training.flags, *LOADING.flags, *_output_flags()]
    method_flags = field_flags(
        registry.load("method", method).Options,
        "method",
        f"Method {method}",
        {str(flag.name) for flag in fixed_flags},
        recipe.method_options,
    )
    # The method's flags are made last, as they depend on the names taken above, but are shown in the middle.
    flags = [*_main_flags(), *sharing.flags, *method_flags.flags, *training.flags, *LOADING.flags, *_output_flags()]

    def callback(**values: Any) -> int:
        merged = {name: config.get(name) if value in (None, ()) else value for name, value in values.items()}
        check_verbose(merged)
        settings = _decide(merged, entries, sharing, training, method_flags)
        if merged["dry_run"]:
            _show_plan(_plan(settings), bool(merged["as_json"]), bool(merged["verbose"]))
            return 0
        return _train(settings, bool(merged["as_json"]))

    if config_path is not None:
        keys = [str(flag.name) for flag in flags if flag.name not in NOT_IN_CONFIG]
        check_keys(config_path, config, keys, "adapt train --tasks with this method")
    return SectionedCommand("train", help=HELP, params=list(flags), callback=callback)


def read_tasks(path: Path) -> dict[str, TaskEntry]:
    """Return the tasks of a YAML, TOML or JSON file, in its order.

    Raises :class:`DataError` for a file that cannot be read, :class:`UsageError` for an invalid task.
    """
    entries = {}
    for name, table in read_tables(path).items():
        columns = table.get("columns")
        if isinstance(columns, list):
            columns = parse_columns([str(pair) for pair in columns])
        if isinstance(columns, Mapping):
            table = {**table, "columns": {str(key): str(column) for key, column in columns.items()}}
        entry = validated(TaskEntry, {"task": name, **table}, f"{path}: {name}")
        _check_source(entry, f"{path}: {name}")
        make_task(entry.task, entry.options)
        entries[name] = entry
    check_names(entries)
    return entries


def _check_source(entry: TaskEntry, where: str) -> None:
    splits = [split for split in SPLITS[1:] if getattr(entry, split)]
    if entry.data and splits:
        raise UsageError(f"{where}: there are data and {', '.join(splits)}: give the one or the others")
    if splits and not entry.train:
        raise UsageError(f"{where}: there is {', '.join(splits)} but no train: add the training data")


def _main_flags() -> list[Flag]:
    tasks = Flag(["--tasks"], section=MAIN, metavar="FILE", help="YAML or TOML file with the tasks.")
    return [tasks, *how_flags(), *dry_run_flags()]


def _output_flags() -> list[Flag]:
    return output_flags(
        Place("Folder for a file of each task, NAME.safetensors.", "this folder"),
        Place("Folder of the run, with a subfolder for each task.", "runs/NAMES-METHOD-TIME"),
        named=False,
    )


def _decide(
    values: Mapping[str, Any],
    entries: Mapping[str, TaskEntry],
    of_sharing: FieldFlags,
    of_training: FieldFlags,
    of_method: FieldFlags,
) -> JointSettings:
    method = values["method"] or METHOD
    options = merge_options(next(iter(entries.values())).task, method, of_training.given(values))
    sharing = validated(SharingOptions, of_sharing.given(values), "several tasks")
    method_options = checked_options("method", method, {**options.method_options, **of_method.given(values)})
    make_methods(method, method_options)
    return JointSettings(
        tasks=entries,
        sharing=sharing,
        method=method,
        backbone=absolute_backbone(values["backbone"] or BACKBONE),
        load=with_precision(load_options(values), options.precision),
        training=with_absolute_places(options.model_dump(mode="json", exclude={"method_options"})),
        method_options=method_options,
        output=Path(values["output"] or "."),
        run_dir=Path(values["run_dir"]) if values["run_dir"] else run_name("-".join(entries), method),
        overwrite=bool(values["overwrite"]),
        automatic=not values["run_dir"],
    )


# ------------------------------------------------------------------------------------------ the work


def is_joint(folder: Path) -> bool:
    """Return whether a folder belongs to a run of several tasks."""
    try:
        return "tasks" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # recall() reads the file again and reports the error
        return False


def resume(folder: Path, output: str | None, overwrite: bool, as_json: bool) -> int:
    """Continue a run of several tasks, and return the exit status."""
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = JointSettings(
            tasks={name: TaskEntry.model_validate(entry) for name, entry in content["tasks"].items()},
            sharing=SharingOptions.model_validate(content["sharing"]),
            load=LoadOptions.model_validate(content["load"]),
            training=TrainingOptions.model_validate(content["training"]).model_dump(exclude={"method_options"}),
            **{key: content[key] for key in ("method", "backbone", "method_options")},
            output=Path(output or content["output"]),
            run_dir=folder,
            overwrite=overwrite or content["overwrite"],
        )
    except KeyError as error:
        raise DataError(f"{path}: it is damaged: {error} is missing") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: it is damaged: {error}") from None
    with run_folder(folder):
        settings.check_places(resume=True)
        # check_places() has refused any output file but the run's own.
        own_outputs = {name for name in settings.tasks if settings.file(name).exists()}
        return _run(_plan(settings), settings, as_json, own_outputs, resume=True)


def _train(settings: JointSettings, as_json: bool) -> int:
    with run_folder(settings.run_dir, settings.automatic) as owned_folder:
        settings = replace(settings, run_dir=owned_folder)
        settings.check_places(resume=False)
        plan = _plan(settings)
        for folder in (settings.run_dir, *(settings.run_dir / name for name in settings.tasks)):
            clear(folder)
        settings.write()
        return _run(plan, settings, as_json)


def _plan(settings: JointSettings) -> JointPlan:
    plan = plan_jointly(
        load_backbone(settings.backbone, settings.load),
        settings.tasks,
        settings.method,
        settings.sharing,
        settings.training,
        settings.method_options,
    )
    for line in plan.notes:
        note(line)
    return plan


def _run(
    plan: JointPlan,
    settings: JointSettings,
    as_json: bool,
    own_outputs: Collection[str] = (),
    resume: bool = False,
) -> int:
    run = joint_run(plan, settings.run_dir)
    with watching(settings.run_dir / LOG) as watch:
        results = dict(zip(settings.tasks, run(watch, resume=resume), strict=True))
    settings.output.mkdir(parents=True, exist_ok=True)
    verdicts = {name: _report(settings.run_dir / name, plan, name, result) for name, result in results.items()}
    _save(settings, results, own_outputs)
    _show(plan, settings, results, verdicts, as_json)
    if not any(result.ending == "interrupted" for result in results.values()):
        return 0
    note(f"Interrupted: the best adapters so far are saved. Continue with --resume {settings.run_dir}")
    return 130


def _save(settings: JointSettings, results: Mapping[str, Result], own_outputs: Collection[str]) -> None:
    """Write every file; raise :class:`TakenError` for the first path that another process took during training.

    The results of the other tasks are written all the same: one taken path must not lose them.
    """
    errors = []
    for name, result in results.items():
        try:
            write_file(settings.file(name), result.adapter, settings.overwrite or name in own_outputs)
        except TakenError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _report(folder: Path, joint_plan: JointPlan, name: str, result: Result) -> list[str]:
    try:
        return result.report(folder, joint_plan.plans[name])
    except OSError as error:  # a full disk must not hide the adapter
        return [f"The report in {folder} could not be written: {error.strerror or error}."]


# ------------------------------------------------------------------------------------------ printing


def _show_plan(plan: JointPlan, as_json: bool, verbose: bool) -> None:
    summary = plan.summary()
    if as_json:
        show_json(summary)
        return
    sharing, records = summary["sharing"], {name: len(each.records["train"]) for name, each in plan.plans.items()}
    show_pairs(
        {
            "sharing": f"{sharing['sharing']}, sampling {sharing['sampling']}",
            "trained": f"{count(summary['trained_parameters'])} parameters",
        }
    )
    say()
    show_table(
        ["name", "task", "training records", "windows", "drawn in an epoch", "head parameters"],
        [
            [name, entry["task"], records[name], entry["windows"], drawn, entry["head_parameters"]]
            for (name, entry), drawn in zip(summary["tasks"].items(), plan.counts, strict=True)
        ],
    )
    if verbose:
        say()
        show_pairs(setting_lines(next(iter(plan.plans.values()))))


def _show(
    plan: JointPlan,
    settings: JointSettings,
    results: Mapping[str, Result],
    verdicts: Mapping[str, Sequence[str]],
    as_json: bool,
) -> None:
    rows = [_row(plan, settings, name, result) for name, result in results.items()]
    if as_json:
        show_json(
            {
                "run_dir": str(settings.run_dir),
                "sharing": settings.sharing.model_dump(mode="json"),
                "trained_parameters": plan.trained_parameters(),
                "tasks": [{**row, "verdict": list(verdicts[row["name"]])} for row in rows],
            }
        )
        return
    for name, result in results.items():
        if result.shortfall:
            say(f"{name}: {result.shortfall}")
    show_table(
        ["name", "task", "metric", "validation", "test", "best epoch", "adapter", "bytes"],
        [
            [
                *(row[key] for key in ("name", "task", "metric")),
                *(row["metrics"].get(split, {}).get(row["metric"], "") for split in ("validation", "test")),
                *(row[key] for key in ("best_epoch", "output", "bytes")),
            ]
            for row in rows
        ],
    )
    say()
    longest = max(results.values(), key=lambda result: result.seconds)
    show_pairs(
        {
            "trained": f"{count(plan.trained_parameters())} parameters",
            "time": f"{longest.seconds:.0f} s, {longest.epochs:.2f} epochs",
            "folder": settings.run_dir,
        }
    )
    for name, sentences in verdicts.items():
        for sentence in sentences:
            say(f"{name}: {sentence}")


def _row(plan: JointPlan, settings: JointSettings, name: str, result: Result) -> dict[str, Any]:
    card, task = result.adapter.card, plan.plans[name].task
    return {
        "name": name,
        "task": card.task.name,
        "metric": type(task).metric,
        "best_epoch": card.training["best_epoch"],
        "metrics": card.metrics,
        "output": str(settings.file(name)),
        "bytes": result.size,
        "shortfall": result.shortfall or None,
        "ending": result.ending,
        "seconds": result.seconds,
    }
