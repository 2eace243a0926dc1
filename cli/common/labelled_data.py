"""Labelled data that an adapter is measured on: its options, and its records as the adapter's task reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptdock.cli.common.flags import Flag, data_flags
from adaptdock.engine.data.sources import SPLITS, Source, load_splits, parse_columns
from adaptdock.engine.data.spans.reading import is_annotated_folder
from adaptdock.errors import SHOWN, DataError, UnknownNameError, UsageError
from adaptdock.hub.artefact.card import Card
from adaptdock.plugins.contracts import Record, Task, UnknownLabels


@dataclass(frozen=True)
class LabelledData:
    """The cleaned records of a split, notes on how they were read, and the training records beside them."""

    source: Source
    split: str
    records: Sequence[Record]
    notes: list[str]
    training: Sequence[Record] | None
    """None unless the data is that of the adapter's training, and has a training split."""


def labelled_data_flags() -> list[Flag]:
    """Return the options that name the data, and its split."""
    split = Flag(
        ["--split"], default="test", show_default=True, metavar=f"[{'|'.join(SPLITS)}]", help="Split of --data."
    )
    return [split, *data_flags({"test": "The file to measure on."})]


def labelled_source(values: Mapping[str, Any]) -> Source:
    """Return the source that the options of a command name."""
    if values["split"] not in SPLITS:
        raise UnknownNameError("split", values["split"], SPLITS)
    data, test = values["data"], values["test"]
    if data and test:
        raise UsageError("there are --data and --test: give one of them")
    columns = parse_columns(values["columns"])
    layout = {"format": values["format"], "columns": columns, "encoding": values["encoding"] or "utf-8"}
    is_whole = data and (Path(data).is_file() or is_annotated_folder(Path(data)))
    file = test or (data if is_whole else None)
    return Source(**{values["split"]: file}, **layout) if file else Source(data=data, **layout)


def read_labelled(source: Source, task: Task, split: str, card: Card) -> LabelledData:
    """Return the records of a split.

    Labels that the adapter does not know become a note if the task's metrics count them. Otherwise they raise
    :class:`DataError`, as a missing split does.
    """
    trained_on = card.training.get("data")
    if source == Source() and trained_on not in (None, source.describe()):
        raise UsageError(
            f"{card.name} was trained on {trained_on}, and the sample data of the task says nothing about it: name "
            f"labelled data with --data or --test"
        )
    seed = card.training.get("options", {}).get("seed", 0)  # what was held out in training is held out again
    splits, notes = load_splits(source, type(task), seed, None if split == "test" else task)
    if split not in splits:
        raise DataError(
            f"{source.describe()}: there is no {split} split; there is {', '.join(splits)}. Choose by --split."
        )
    cleaned = task.clean(splits[split], split)
    if not cleaned.records:
        raise DataError(f"{source.describe()}: none of the {len(splits[split])} records of {split} is labelled")
    unknown = _checked_labels(task, cleaned.records, split)
    training = None
    if "train" in splits and card.training.get("data") == source.describe():
        training = task.clean(splits["train"], "train").records
    return LabelledData(source, split, cleaned.records, [*notes, *cleaned.notes, *unknown], training)


def _checked_labels(task: Task, records: Sequence[Record], split: str) -> list[str]:
    """Return a note on the labels that the adapter does not know; :meth:`Task.check` refuses them for other tasks."""
    if not isinstance(task, UnknownLabels):
        task.check(records, split)
        return []
    counts = task.unknown(records)
    if not counts:
        return []
    listing = ", ".join(f"{label!r} ({count})" for label, count in list(counts.items())[:SHOWN])
    more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    return [f"{split}: labels that the adapter does not know count as missed: {listing}{more}"]
