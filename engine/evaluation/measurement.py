"""Evaluation: an adapter measured on labelled records, through the same path that predicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adaptdock.engine.core.batches import NOT_COUNTED, collate_labels
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.pipeline import compute, temporarily_docked
from adaptdock.engine.inference.prediction import write_records
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
    with temporarily_docked(dock, adapter) as row:
        task = row[-1].assembly.task
        tally = _Tally(task)
        encoded = compute(dock, [row] * len(records), records, batch_size, labelled=True, on_batch=tally.add)
        written = []
        if write and isinstance(task, Writer):
            chosen = list(records[: task.written])
            written = write_records(dock, [row] * len(chosen), chosen, batch_size)
    predictions = [item.decode() for item in encoded]
    metrics = task.score(records, predictions)
    if isinstance(task, Writer) and written:
        metrics |= {"written": len(written), **task.compare(records[: len(written)], written)}
        predictions = written
    return Evaluation(metrics, tally.mean, predictions, [item.digests for item in encoded])


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
