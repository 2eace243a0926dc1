"""``adapt eval``: metrics of an adapter on labelled data."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.backbone import open_dock
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, data_flags, load_options
from adaptdock.cli.common.output import note, say, show_json, show_metrics
from adaptdock.cli.common.parameters import ADAPTER
from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.sources import SPLITS, Source, load_splits, parse_columns
from adaptdock.engine.data.spans.reading import is_annotated_folder
from adaptdock.engine.evaluation.bootstrap import intervals
from adaptdock.engine.evaluation.measurement import Evaluation, evaluate
from adaptdock.errors import DataError, UnknownNameError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.contracts import Record, Task


@click.command("eval", cls=SectionedCommand)
@click.argument("file", type=ADAPTER)
@click.option(
    "--split", cls=Flag, default="test", show_default=True, metavar=f"[{'|'.join(SPLITS)}]", help="Split of --data."
)
@click.option(
    "--batch-size", cls=Flag, type=click.IntRange(min=1), default=32, show_default=True, help="Records in a batch."
)
@click.option(
    "--bootstrap",
    cls=Flag,
    type=click.IntRange(min=20),
    metavar="DRAWS",
    help="Number of bootstrap samples of the records, for the 95 % interval of each metric.",
)
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(file: Path, split: str, batch_size: int, bootstrap: int | None, as_json: bool, **values: Any) -> None:
    """Measure the adapter in FILE, a path or the name of an installed one, on labelled data.

    --data names a folder, a hub data set or a file. Of a folder or data set the test split is measured, or the split
    that --split names; a file is measured in full. --test names a file, too. With neither option, the sample data of
    the task is used.
    """
    options = load_options(values)
    source = _source(split, values)
    adapter = read_adapter(file)
    task = make_task(adapter.card.task.name, adapter.card.task.options)
    records = _records(source, task, split, adapter.card)
    dock = open_dock(adapter.card, values["backbone"], options)
    evaluation = evaluate(dock, adapter, records, batch_size, write=bootstrap is None)
    bounds = intervals(task, records, evaluation.predictions, bootstrap) if bootstrap else {}
    if as_json:
        show_json(_document(file, adapter.card, source, split, evaluation) | ({"intervals": bounds} if bounds else {}))
    else:
        note(f"{adapter.card.name} on the {split} split of {source.describe()}: {len(records)} records")
        show_metrics({split: {**evaluation.metrics, "loss": evaluation.loss}})
        for name, (low, high) in bounds.items():
            say(f"{name}: {low:g} to {high:g} (95 %, {bootstrap} draws)")


command.params += [
    *data_flags({"test": "The file to measure on."}),
    Flag(["--backbone"], section=LOADING.flags[0].section, help="Another source of the same weights as the card's."),
    *LOADING.flags,
]


def _source(split: str, values: dict[str, Any]) -> Source:
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    data, test = values["data"], values["test"]
    if data and test:
        raise UsageError("--data and --test cannot be combined: give only one")
    columns = parse_columns(values["columns"])
    layout = {"format": values["format"], "columns": columns, "encoding": values["encoding"] or "utf-8"}
    is_whole = data and (Path(data).is_file() or is_annotated_folder(Path(data)))
    file = test or (data if is_whole else None)
    return Source(**{split: file}, **layout) if file else Source(data=data, **layout)


def _records(source: Source, task: Task, split: str, card: Card) -> list[Record]:
    seed = card.training.get("options", {}).get("seed", 0)  # the records held out in training are held out again
    splits, notes = load_splits(source, type(task), seed, None if split == "test" else task)
    if split not in splits:
        raise DataError(f"{source.describe()}: it has no {split} split. Choose with --split: {', '.join(splits)}.")
    cleaned = task.clean(splits[split], split)
    for line in [*notes, *cleaned.notes]:
        note(line)
    if not cleaned.records:
        raise DataError(f"{source.describe()}: none of the {len(splits[split])} records of {split} is labelled")
    task.check(cleaned.records, split)
    return cleaned.records


def _document(file: Path, card: Card, source: Source, split: str, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "file": str(file),
        "adapter": card.name,
        "data": source.describe(),
        "split": split,
        "records": len(evaluation.predictions),
        "loss": evaluation.loss,
        "metrics": evaluation.metrics,
    }
