"""Evaluation: an adapter measured on labelled records, through the same path that predicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adaptdock.engine.core.batches import NOT_COUNTED, collate_labels
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.prediction import digests_of, write_records
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Feature, Record, Task, Writer


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a task, the mean loss, the predictions they come from, and what is kept of the logits."""

    metrics: dict[str, Any]
    loss: float
    predictions: list[dict[str, Any]]
    digests: list[list[Tensor]]


def evaluate(
    dock: Dock, adapter: AdapterFile, records: Sequence[Record], batch_size: int = 32, write: bool = True
) -> Evaluation:
    """Measure an adapter on records that the task has cleaned.

    Where the task's answers are written by a language model, the first ones are written and compared too,
    unless ``write`` is false.
    """
    name = dock.dock(adapter, f"measured {uuid4()}")
    try:
        task = dock.assembly(name).task
        tally = _Tally(task)
        with dock.boarding([name]) as (row,):
            reading = dock.reading(adapter.card.preprocessing.max_length, row)
            features = [task.encode(record, reading, labelled=True) for record in records]
            digests = digests_of(dock, [row] * len(records), features, batch_size, tally.add)
            written = []
            if write and isinstance(task, Writer):
                chosen = list(records[: task.written])
                written = write_records(dock, [row] * len(chosen), chosen, batch_size)
    finally:
        dock.unload(name)
    predictions = [
        task.decode(record, own, found) for record, own, found in zip(records, features, digests, strict=True)
    ]
    metrics = task.score(records, predictions)
    if isinstance(task, Writer) and written:
        metrics |= {"written": len(written), **task.compare(records[: len(written)], written)}
        predictions = written
    return Evaluation(metrics, tally.mean, predictions, digests)


class _Tally:
    """The loss of batches, of which each counts by its labels."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.total, self.counted = 0.0, 0

    def add(self, features: Sequence[Feature], logits: Sequence[Tensor]) -> None:
        labels = collate_labels(features, torch.device("cpu"))
        counted = int((labels != NOT_COUNTED).sum())
        if counted:
            stacked = pad_sequence([found.float() for found in logits], batch_first=True)
            self.total += float(self.task.loss(stacked, labels, None)) * counted
            self.counted += counted

    @property
    def mean(self) -> float:
        return self.total / self.counted if self.counted else math.nan
