"""``adapt eval``: an adapter measured on labelled data."""

from collections.abc import Mapping
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
from adaptdock.errors import SHOWN, DataError, UnknownNameError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.contracts import Record, Task, UnknownLabels


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
    help="Draw the records so often with replacement, and show the interval that holds 95 % of each metric's values.",
)
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(file: Path, split: str, batch_size: int, bootstrap: int | None, as_json: bool, **values: Any) -> None:
    """Measure the adapter in FILE, a path or the name of an installed one, on labelled data.

    --data names a folder or hub data set, of which the test split is measured unless --split says
    otherwise, or one file, which is measured whole; --test names a file too. With neither, the
    sample data of the task is used.
    """
    options = load_options(values)
    source = _source(split, values)
    adapter = read_adapter(file)
    task = make_task(adapter.card.task.name, adapter.card.task.options)
    records = _records(source, task, split, adapter.card)
    dock = open_dock(adapter.card, values["backbone"], options)
    found = evaluate(dock, adapter, records, batch_size, write=bootstrap is None)
    bounds = intervals(task, records, found.predictions, bootstrap) if bootstrap else {}
    if as_json:
        show_json(_document(file, adapter.card, source, split, found) | ({"intervals": bounds} if bounds else {}))
    else:
        note(f"{adapter.card.name} on the {split} split of {source.describe()}: {len(records)} records")
        show_metrics({split: {**found.metrics, "loss": found.loss}})
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
        raise UsageError("there are --data and --test: give one of them")
    columns = parse_columns(values["columns"])
    layout = {"format": values["format"], "columns": columns, "encoding": values["encoding"] or "utf-8"}
    is_whole = data and (Path(data).is_file() or is_annotated_folder(Path(data)))
    file = test or (data if is_whole else None)
    return Source(**{split: file}, **layout) if file else Source(data=data, **layout)


def _records(source: Source, task: Task, split: str, card: Card) -> list[Record]:
    seed = card.training.get("options", {}).get("seed", 0)  # what was held out in training is held out again
    splits, notes = load_splits(source, type(task), seed, None if split == "test" else task)
    if split not in splits:
        raise DataError(
            f"{source.describe()}: there is no {split} split; there is {', '.join(splits)}. Choose by --split."
        )
    cleaned = task.clean(splits[split], split)
    for line in [*notes, *cleaned.notes]:
        note(line)
    if isinstance(task, UnknownLabels):
        _note_unknown(task.unknown(cleaned.records), split)
    else:
        task.check(cleaned.records, split)
    return cleaned.records


def _note_unknown(counts: Mapping[str, int], split: str) -> None:
    """Name the labels that the adapter does not know."""
    if counts:
        listing = ", ".join(f"{label!r} ({count})" for label, count in list(counts.items())[:SHOWN])
        more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
        note(f"{split}: labels that the adapter does not know count as missed: {listing}{more}")


def _document(file: Path, card: Card, source: Source, split: str, found: Evaluation) -> dict[str, Any]:
    return {
        "file": str(file),
        "adapter": card.name,
        "data": source.describe(),
        "split": split,
        "records": len(found.predictions),
        "loss": found.loss,
        "metrics": found.metrics,
    }
