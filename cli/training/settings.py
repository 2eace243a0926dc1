"""Every decision of a training run, from flags, a configuration file, or the folder of an earlier run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptdock.cli.common.flags import FieldFlags, load_options
from adaptdock.engine.core.assembly import checked_options, make_methods, make_task, validated
from adaptdock.engine.data.sources import Source, parse_columns
from adaptdock.engine.training.hyperparameters import TrainingOptions, merge_options, with_precision
from adaptdock.engine.training.run_folders import run_name
from adaptdock.errors import DataError, UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import LoadOptions

CONFIG = "config.json"


@dataclass(frozen=True)
class Settings:
    """Every decision of a run; the run's folder stores it as config.json."""

    task: str
    method: str
    backbone: str
    source: Source
    load: LoadOptions
    training: Mapping[str, Any]
    method_options: Mapping[str, Any]
    task_options: Mapping[str, Any]
    name: str
    output: Path
    run_dir: Path
    overwrite: bool = False
    automatic: bool = False
    """Whether the run's folder has a generated name, which may get a number at its end."""

    def write(self) -> None:
        """Write the settings to the run's folder, with absolute paths."""
        source = asdict(self.source)
        for key in ("data", "train", "validation", "test"):
            if source[key] and Path(source[key]).exists():  # else it is the name of a hub data set
                source[key] = str(Path(source[key]).absolute())
        content = {
            **{key: getattr(self, key) for key in ("task", "method", "backbone", "name", "overwrite")},
            "source": source,
            "load": self.load.model_dump(mode="json"),
            "training": dict(self.training),
            "method_options": dict(self.method_options),
            "task_options": dict(self.task_options),
            "output": str(self.output.absolute()),
        }
        (self.run_dir / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def decide(values: Mapping[str, Any], of_training: FieldFlags, of_method: FieldFlags, of_task: FieldFlags) -> Settings:
    """Return the settings from flags and configuration, checked as far as possible without data."""
    task, method = values["task"], values["method"]
    if task is None:
        raise UsageError(f"--task is missing: give the task of the adapter ({', '.join(registry.names('task'))})")
    task_options = of_task.given(values)
    options = merge_options(task, method, of_training.given(values))
    method_options = checked_options("method", method, {**options.method_options, **of_method.given(values)})
    make_methods(method, method_options)
    make_task(task, task_options)
    name = values["name"] or task
    if "+" in name or not 0 < len(name) <= 200:
        raise UsageError(f"--name {name!r}: a name has 1 to 200 characters and no '+'")
    return Settings(
        task=task,
        method=method,
        backbone=absolute_backbone(values["backbone"]),
        source=_source(values),
        load=with_precision(load_options(values), options.precision),
        training=with_absolute_places(options.model_dump(mode="json", exclude={"method_options"})),
        method_options=method_options,
        task_options=task_options,
        name=name,
        output=Path(values["output"] or f"{task}.safetensors"),
        run_dir=Path(values["run_dir"]) if values["run_dir"] else run_name(task, method),
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
        training = validated(TrainingOptions, content["training"], str(path))
        load = validated(LoadOptions, content["load"], str(path))
        return Settings(
            **{key: content[key] for key in ("task", "method", "backbone", "name", "method_options", "task_options")},
            source=Source(**content["source"]),
            load=load,
            training=training.model_dump(mode="json", exclude={"method_options"}),
            output=Path(output or content["output"]),
            run_dir=folder,
            overwrite=overwrite or content["overwrite"],
        )
    except OSError as error:
        raise DataError(
            f"{path}: it cannot be read ({error.strerror or error}): {folder} is not a run's folder"
        ) from None
    except KeyError as error:
        raise DataError(f"{path}: it is damaged: {error} is missing") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: it is damaged: {error}") from None


def _source(values: Mapping[str, Any]) -> Source:
    files = {split: values[split] for split in ("train", "validation", "test")}
    split_flags = [f"--{split}" for split, file in files.items() if file]
    if values["data"] and split_flags:
        raise UsageError(f"there are --data and {', '.join(split_flags)}: give the one or the others")
    if split_flags and not files["train"]:
        raise UsageError(f"there is {', '.join(split_flags)} but no --train: add the training data")
    columns = parse_columns(values["columns"])
    layout = {"format": values["format"], "columns": columns, "encoding": values["encoding"] or "utf-8"}
    return Source(data=values["data"], **files, **layout)


def with_absolute_places(training: dict[str, Any]) -> dict[str, Any]:
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
