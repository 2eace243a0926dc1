"""Every decision of a training run, from flags, a configuration file, or the folder of an earlier run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adaptdock.cli.common.flags import FieldFlags, load_options
from adaptdock.cli.training.tasks_file import TaskTable
from adaptdock.engine.core.assembly import validated
from adaptdock.engine.data.sources import Source, parse_columns
from adaptdock.engine.training.loop.run_folders import run_name
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions, with_precision
from adaptdock.engine.training.planning.run_plan import SharingOptions, TaskSettings, completed
from adaptdock.engine.training.repeats.seeds import SeedOptions
from adaptdock.errors import DataError, UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import LoadOptions

CONFIG = "config.json"
SPLITS = ("data", "train", "validation", "test")
NAMED = 4
"""Most tasks whose names are in the generated name of a run's folder."""


@dataclass(frozen=True)
class Chosen:
    """The configuration, and the flags of the method and task that arguments and configuration choose.

    ``tables`` are those of ``--tasks``, where it is given; ``sharing`` are the flags on several tasks.
    """

    config: dict[str, Any]
    config_path: Path | None
    training: FieldFlags
    method: FieldFlags
    task: FieldFlags
    sharing: FieldFlags
    tables: Mapping[str, TaskTable]


@dataclass(frozen=True)
class Settings:
    """Every decision of a run; the run's folder stores it as config.json."""

    tasks: Mapping[str, TaskSettings]
    sharing: SharingOptions
    backbone: str
    load: LoadOptions
    output: Path
    run_dir: Path
    overwrite: bool = False
    automatic: bool = False
    """Whether the run's folder has a generated name, which may get a number at its end."""
    seeds: int | None = None
    """The number of seeds of ``--seeds``."""

    @property
    def several(self) -> bool:
        """Whether the run has more than one task."""
        return len(self.tasks) > 1

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each task: the run's folder itself for a single task."""
        return {name: self.run_dir / name if self.several else self.run_dir for name in self.tasks}

    @property
    def files(self) -> dict[str, Path]:
        """The adapter file of each task: the output itself for a single task."""
        return {name: self.output / f"{name}.safetensors" if self.several else self.output for name in self.tasks}

    def with_batch_size(self, size: str) -> "Settings":
        """Return the settings with another batch size of one process; raise :class:`UsageError` for no number."""
        tasks = {}
        for name, entry in self.tasks.items():
            options = validated(TrainingOptions, {"batch_size": size}, "training")
            tasks[name] = replace(entry, training={**entry.training, "batch_size": options.batch_size})
        return replace(self, tasks=tasks)

    def write(self) -> None:
        """Write the settings to the run's folder, with absolute paths."""
        content = {
            "tasks": {name: {**asdict(entry), "source": _absolute(entry.source)} for name, entry in self.tasks.items()},
            "sharing": self.sharing.model_dump(mode="json"),
            "backbone": self.backbone,
            "load": self.load.model_dump(mode="json"),
            "output": str(self.output.absolute()),
            "overwrite": self.overwrite,
            "seeds": self.seeds,
        }
        (self.run_dir / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _absolute(source: Source) -> dict[str, Any]:
    fields = asdict(source)
    files = {split: Path(fields[split]) for split in SPLITS if fields[split]}
    # A name without a file is that of a hub data set.
    return {**fields, **{split: str(file.absolute()) for split, file in files.items() if file.exists()}}


def decide(values: Mapping[str, Any], choice: Chosen) -> Settings:
    """Return the settings from flags and configuration, checked as far as possible without data."""
    method = values["method"] or registry.DEFAULT_METHOD
    training, method_options = choice.training.given(values), choice.method.given(values)
    sharing = validated(SharingOptions, choice.sharing.given(values), "several tasks")
    if choice.tables:
        common = TaskSettings("", method, training=training, method_options=method_options)
        tasks = {name: table.over(common) for name, table in choice.tables.items()}
        parts, output = list(tasks) if len(tasks) <= NAMED else [f"{len(tasks)}-tasks"], "."
    else:
        name, source = _name(values), _source(values)
        tasks = {
            name: TaskSettings(values["task"], method, source, training, method_options, choice.task.given(values))
        }
        parts, output = [values["task"]], f"{values['task']}.safetensors"
    tasks = {
        name: replace(entry, training=with_absolute_places(entry.training))
        for name, entry in completed(tasks, sharing).items()
    }
    methods = "-".join(dict.fromkeys(entry.method for entry in tasks.values()))
    precision = next(iter(tasks.values())).training["precision"]  # the same for all tasks
    return Settings(
        tasks=tasks,
        sharing=sharing,
        backbone=absolute_backbone(values["backbone"] or registry.DEFAULT_BACKBONE),
        load=with_precision(load_options(values), precision),
        output=Path(values["output"] or output),
        run_dir=Path(values["run_dir"]) if values["run_dir"] else run_name("-".join(parts), methods),
        overwrite=bool(values["overwrite"]),
        automatic=not values["run_dir"],
    )


def recall(folder: Path, output: str | None, overwrite: bool) -> Settings:
    """Return the settings of an earlier run.

    Raises :class:`DataError` if the folder is not a run's folder, or is damaged.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Settings(
            tasks={name: _entry(fields, str(path)) for name, fields in _tasks(content).items()},
            sharing=validated(SharingOptions, content.get("sharing", {}), str(path)),
            backbone=content["backbone"],
            load=validated(LoadOptions, content["load"], str(path)),
            output=Path(output or content["output"]),
            run_dir=folder,
            overwrite=overwrite or content["overwrite"],
            seeds=validated(SeedOptions, {"seeds": content.get("seeds")}, str(path)).seeds,
        )
    except OSError as error:
        raise DataError(
            f"{path}: it cannot be read ({error.strerror or error}): {folder} is not a run's folder"
        ) from None
    except KeyError as error:
        raise DataError(f"{path}: it is damaged: {error} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: it is damaged: {error}") from None


def _entry(fields: Mapping[str, Any], where: str) -> TaskSettings:
    training = validated(TrainingOptions, fields["training"], where)
    dumped = training.model_dump(mode="json", exclude={"method_options"})
    return TaskSettings(**{**fields, "training": dumped, "source": Source(**fields["source"])})


def _tasks(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of each task; older runs have a form of their own for one task, and for several."""
    common = {key: content[key] for key in ("method", "training", "method_options") if key in content}
    if "tasks" not in content:
        return {content["name"]: {**common, **{key: content[key] for key in ("task", "source", "task_options")}}}
    if not common:
        tasks: Mapping[str, Any] = content["tasks"]
        return tasks
    return {name: {**common, **_of_table(table)} for name, table in content["tasks"].items()}


def _of_table(table: Mapping[str, Any]) -> dict[str, Any]:
    source = {key: table[key] for key in Source.__dataclass_fields__}
    others = {"task_options": table["options"], "weight": table["weight"], "may_undivide": False}
    return {"task": table["task"], "source": source, **others}


def _name(values: Mapping[str, Any]) -> str:
    if values["task"] is None:
        raise UsageError(f"--task is missing: give the task of the adapter ({', '.join(registry.names('task'))})")
    name = str(values["name"] or values["task"])
    if "+" in name or not 0 < len(name) <= 200:
        raise UsageError(f"--name {name!r}: a name has 1 to 200 characters and no '+'")
    return name


def _source(values: Mapping[str, Any]) -> Source:
    files = {split: values[split] for split in ("train", "validation", "test")}
    split_flags = [f"--{split}" for split, file in files.items() if file]
    if values["data"] and split_flags:
        raise UsageError(f"there are --data and {', '.join(split_flags)}: give the one or the others")
    if split_flags and not files["train"]:
        raise UsageError(f"there is {', '.join(split_flags)} but no --train: add the training data")
    columns = parse_columns(values["columns"] or ())
    layout = {"format": values["format"], "columns": columns, "encoding": values["encoding"] or "utf-8"}
    return Source(data=values["data"], **files, **layout)


def with_absolute_places(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return training options with absolute paths, so that a run can be resumed from any folder."""
    files = {name: training[name] for name in ("on", "synonyms", "unlabelled") if training[name] is not None}
    absolute = {name: str(Path(file).absolute()) for name, file in files.items()}
    translators = [str(Path(name).absolute()) if Path(name).exists() else name for name in training["back_translation"]]
    return {**training, **absolute, "back_translation": translators}


def absolute_backbone(backbone: str) -> str:
    """Return an existing path as an absolute path, and any other name (an alias, a hub id) unchanged."""
    path = Path(backbone).expanduser()
    is_path = ("/" in backbone or backbone.endswith(".gguf")) and path.exists()
    return str(path.absolute()) if is_path else backbone
