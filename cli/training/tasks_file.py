"""The file of ``adapt train --tasks``: a table for each task, over the settings of the command line."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from adaptdock.cli.common.config import read_tables
from adaptdock.engine.core.assembly import make_task, validated
from adaptdock.engine.data.sources import Source, parse_columns
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions
from adaptdock.engine.training.planning.run_plan import PASS_OPTIONS, TaskSettings, check_names
from adaptdock.errors import UnknownNameError, UsageError
from adaptdock.plugins.contracts import Options

TRAINING = TrainingOptions.model_fields.keys() - {"method_options"}


class TaskTable(Options):
    """A table of the file; ``training`` holds its keys that are training options."""

    task: str
    method: str | None = None
    method_options: dict[str, Any] = {}
    data: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    format: str | None = None
    columns: dict[str, str] = {}
    encoding: str = "utf-8"
    options: dict[str, Any] = {}
    weight: float = Field(1.0, gt=0)
    training: dict[str, Any] = {}

    def over(self, settings: TaskSettings) -> TaskSettings:
        """Return the settings of this task; missing ones come from ``settings``, those of the command line."""
        method = self.method or settings.method
        method_options = settings.method_options if method == settings.method else {}
        return replace(
            settings,
            task=self.task,
            method=method,
            source=Source(**self.model_dump(include={*Source.__dataclass_fields__})),
            training={**settings.training, **self.training},
            method_options={**method_options, **self.method_options},
            task_options=self.options,
            weight=self.weight,
        )


def read_tasks(path: Path) -> dict[str, TaskTable]:
    """Return the tasks of a YAML, TOML or JSON file, in its order.

    Raises :class:`DataError` for a file that cannot be read, :class:`UsageError` for an invalid task.
    """
    tables = {name: _table(f"{path}: {name}", name, table) for name, table in read_tables(path).items()}
    check_names(tables)
    return tables


def _table(where: str, name: str, table: Mapping[str, Any]) -> TaskTable:
    keys = {*TaskTable.model_fields, *TRAINING} - {"training", *PASS_OPTIONS}
    for key in table:
        if key in PASS_OPTIONS:
            flag = f"--{key.replace('_', '-')}"
            raise UsageError(f"{where}: {key} cannot differ between tasks: {PASS_OPTIONS[key]}. Give {flag} instead")
        if key not in keys:
            raise UnknownNameError(f"key in {where}:", key, keys)
    columns = table.get("columns")
    if isinstance(columns, list):
        columns = parse_columns([str(pair) for pair in columns])
    if isinstance(columns, Mapping):
        table = {**table, "columns": {str(key): str(column) for key, column in columns.items()}}
    training = {key: value for key, value in table.items() if key in TRAINING}
    others = {key: value for key, value in table.items() if key not in TRAINING}
    checked = validated(TaskTable, {"task": name, **others, "training": training}, where)
    _check_source(checked, where)
    make_task(checked.task, checked.options)
    return checked


def _check_source(table: TaskTable, where: str) -> None:
    splits = [split for split in ("train", "validation", "test") if getattr(table, split)]
    if table.data and splits:
        raise UsageError(f"{where}: there are data and {', '.join(splits)}: give the one or the others")
    if splits and not table.train:
        raise UsageError(f"{where}: there is {', '.join(splits)} but no train: add the training data")
