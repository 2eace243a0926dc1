"""``adapt data``: what is in a data file or folder, as a task reads it; problems are counted and listed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.data_checks import by_backbone, show_findings
from adaptdock.cli.common.flags import (
    LOADING,
    MAIN,
    DeferredCommand,
    FieldFlags,
    Flag,
    SectionedCommand,
    data_flags,
    field_flags,
    peek,
)
from adaptdock.cli.common.output import brief, count, say, show_json, show_pairs
from adaptdock.cli.common.records import first_records, show_records
from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.checks import Problem, check
from adaptdock.engine.data.sources import FileRead, Reader, Source, parse_columns
from adaptdock.errors import DataError, UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Record, Task

RECORDS = 3
HELP = """Show what is in FILE as a task reads it: its format, its columns, the first records, labels and problems.

FILE is a file, a folder with a file for each split, or a hub data set. Nothing is trained, and nothing is an error
that can be read, unless --strict says so. With --backbone the lengths of the texts are compared with its window, and
the words of each script with its tokenizer. --check finds labels that may be wrong, and texts that are nearly the same.
"""


def _build(arguments: Sequence[str]) -> SectionedCommand:
    task = peek(arguments, "task")
    fixed = [
        Flag(["--task"], section=MAIN, metavar=f"[{'|'.join(registry.names('task'))}]", help="What reads it."),
        Flag(["--backbone"], section=MAIN, metavar="NAME|PATH", help="Compare lengths with the window of this one."),
        Flag(["--max-length"], section=MAIN, type=click.IntRange(min=1), default=256, help="Tokens of a window."),
        Flag(["--records"], section=MAIN, type=click.IntRange(min=0), default=RECORDS, help="Records to show."),
        Flag(
            ["--check"],
            section=MAIN,
            is_flag=True,
            help="Find label errors (confident learning) and near duplicates by the frozen backbone.",
        ),
        Flag(["--strict"], section=MAIN, is_flag=True, help="End with status 1 if there is a problem."),
        Flag(["--json", "as_json"], section=MAIN, is_flag=True, help="Print JSON."),
        *(flag for flag in data_flags({}) if flag.name != "data"),
    ]
    taken = {str(flag.name) for flag in [*fixed, *LOADING.flags]}
    options = registry.load("task", task).Options if task else None
    of_task = field_flags(options, "task", f"Task {task}", taken) if options else FieldFlags("task", (), {})

    def callback(**values: Any) -> int:
        return _show(values, of_task)

    argument = click.Argument(["file"], metavar="FILE")
    return SectionedCommand(
        "data", help=HELP, params=[argument, *fixed, *of_task.flags, *LOADING.flags], callback=callback
    )


command = DeferredCommand("data", _build, HELP)


def _show(values: dict[str, Any], of_task: FieldFlags) -> int:
    name = values["task"]
    if name is None:
        raise UsageError(f"--task is missing: say what reads the data ({', '.join(registry.names('task'))})")
    task = make_task(name, of_task.given(values))
    source = Source(
        data=values["file"],
        format=values["format"],
        columns=parse_columns(values["columns"]),
        encoding=values["encoding"] or "utf-8",
    )
    reader = Reader(type(task), source)
    report = _report(reader, task, values)
    if values["as_json"]:
        show_json(report)
    else:
        _print(report)
    return 1 if values["strict"] and report["problems"] else 0


def _report(reader: Reader, task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that is known about the data; a part that the task refuses is a problem."""
    raw = reader.splits()
    problems: list[Problem] = []
    notes = reader.notes()
    records: dict[str, Sequence[Record]] = {}
    for split, raw_records in raw.items():
        try:
            cleaned = task.clean(raw_records, split)
        except DataError as error:
            problems.append(Problem(f"{split}: adapt train would stop here: {error}", 1, ()))
            continue
        records[split] = cleaned.records
        notes += cleaned.notes
    fitted = _fitted(task, records, problems, notes)
    problems += check(records, fitted)
    report: dict[str, Any] = {
        "files": [asdict(file) for file in reader.files],
        "splits": {split: len(raw_records) for split, raw_records in raw.items()},
        "labels": {split: fitted.describe(cleaned) for split, cleaned in records.items()},
        "first": {split: first_records(cleaned, fitted, values["records"]) for split, cleaned in records.items()},
        "notes": notes,
    }
    if (values["backbone"] or values["check"]) and records:
        report |= by_backbone(records, fitted, values, problems)
    return {**report, "problems": [problem.describe() for problem in problems]}


def _fitted(task: Task, records: Mapping[str, Sequence[Record]], problems: list[Problem], notes: list[str]) -> Task:
    """Return the task with what it learns from the training data, or as it is where it can learn nothing."""
    if "train" not in records:
        return task
    try:
        fitted = task.fit(records["train"])
        for split, cleaned in records.items():
            fitted.check(cleaned, split)
    except DataError as error:
        problems.append(Problem(f"adapt train would stop here: {error}", 1, ()))
        return task
    notes += fitted.notes()
    return fitted


def _print(report: Mapping[str, Any]) -> None:
    for file in report["files"]:
        say(_described(FileRead(**file)))
    say()
    described = {split: _counted(counts) for split, counts in report["labels"].items()}
    show_pairs({split: described.get(split, f"{count(number)} records") for split, number in report["splits"].items()})
    for split, lines in report.get("windows", {}).items():
        show_pairs({f"{split}, {name}": value for name, value in lines.items()})
    show_pairs({f"words in {name}": line for name, line in report.get("scripts", {}).items()})
    for split, first in report["first"].items():
        show_records(split, first)
    show_findings(report)
    for title, lines in (("Decided while reading", report["notes"]), ("Problems", report["problems"])):
        if lines:
            say()
            say(f"{title}:")
        for line in lines:
            say(f"  {line}")
    if not report["problems"]:
        say()
        say("No problems were found.")


def _described(file: FileRead) -> str:
    columns = ", ".join(f"{field} from {_column(column)}" for field, column in file.columns.items())
    return f"{Path(file.name)}: {file.format}{': ' if columns else ''}{columns}"


def _column(name: str) -> str:
    return f"column {name}" if name.lstrip("-").isdigit() else repr(name)


def _counted(counts: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name}: {', '.join(f'{key} {count(number)}' for key, number in value.items()) or 'none'}"
        if isinstance(value, Mapping)
        else f"{name}: {brief(value)}"
        for name, value in counts.items()
    )
