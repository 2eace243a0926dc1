"""Evaluation: an adapter measured on labelled records, by the same code that predicts."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adaptdock.engine.core.batches import NOT_COUNTED, collate_labels
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.pipeline import EncodedRecord, compute, compute_together, temporarily_docked
from adaptdock.engine.inference.prediction import write_records
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Feature, Record, Task, Writer


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a task, the mean loss, the predictions, and the digests of the logits.

    ``scored`` are the predictions that :meth:`Task.score` compares, one for each record. ``predictions`` are the same,
    or the generated answers to the first records.
    """

    metrics: dict[str, Any]
    loss: float
    predictions: list[dict[str, Any]]
    digests: list[list[Tensor]]
    scored: list[dict[str, Any]]


def evaluate(
    dock: Dock, adapter: AdapterFile, records: Sequence[Record], batch_size: int = 32, write: bool = True
) -> Evaluation:
    """Measure an adapter on records that the task has cleaned.

    If a language model writes the task's answers, the first answers are written and compared too, unless ``write`` is
    false.
    """
    with temporarily_docked(dock, adapter) as row:
        task = row[-1].assembly.task
        tally = _Tally(task)
        encoded = compute(dock, [row] * len(records), records, batch_size, labelled=True, on_batch=tally.add)
        written = []
        if write and isinstance(task, Writer):
            to_write = list(records[: task.written])
            written = write_records(dock, [row] * len(to_write), to_write, batch_size)
    evaluation = _scored(task, records, encoded, tally)
    if isinstance(task, Writer) and written:
        metrics = {**evaluation.metrics, "written": len(written), **task.compare(records[: len(written)], written)}
        return replace(evaluation, metrics=metrics, predictions=written)
    return evaluation


def evaluate_together(
    dock: Dock, adapters: Sequence[AdapterFile], records: Sequence[Record], batch_size: int = 32
) -> list[Evaluation]:
    """Measure adapters of equal tasks on the same records, in mixed batches that read each record once.

    The answers of a task that writes are not written. ``batch_size`` counts records, each a row for every adapter.
    """
    with ExitStack() as docked:
        rows = [docked.enter_context(temporarily_docked(dock, adapter)) for adapter in adapters]
        tallies = [_Tally(row[-1].assembly.task) for row in rows]
        encoded = compute_together(dock, rows, records, batch_size, [tally.add for tally in tallies])
    return [
        _scored(tally.task, records, records_of_adapter, tally)
        for tally, records_of_adapter in zip(tallies, encoded, strict=True)
    ]


def _scored(task: Task, records: Sequence[Record], encoded: Sequence[EncodedRecord], tally: "_Tally") -> Evaluation:
    predictions = [item.decode() for item in encoded]
    metrics = task.score(records, predictions)
    return Evaluation(metrics, tally.mean, predictions, [item.digests for item in encoded], predictions)


def pooled(task: Task, parts: Sequence[tuple[Sequence[Record], Evaluation]]) -> Evaluation:
    """Return one evaluation of all records, from evaluations of parts of them; the loss is the mean over records."""
    records = [record for of_part, _ in parts for record in of_part]
    scored = [answer for _, evaluation in parts for answer in evaluation.scored]
    return Evaluation(
        metrics=task.score(records, scored),
        loss=sum(len(of_part) * evaluation.loss for of_part, evaluation in parts) / max(1, len(records)),
        predictions=[answer for _, evaluation in parts for answer in evaluation.predictions],
        digests=[digests for _, evaluation in parts for digests in evaluation.digests],
        scored=scored,
    )


class _Tally:
    """The mean loss over batches, weighted by their counted labels."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.total, self.counted = 0.0, 0

    def add(self, features: Sequence[Feature], logits: Sequence[Tensor]) -> None:
        labels = collate_labels(features, torch.device("cpu"))
        counted = int((labels != NOT_COUNTED).sum())
        if counted:
            stacked = pad_sequence([window_logits.float() for window_logits in logits], batch_first=True)
            self.total += float(self.task.loss(stacked, labels, None)) * counted
            self.counted += counted

    @property
    def mean(self) -> float:
        return self.total / self.counted if self.counted else math.nan
