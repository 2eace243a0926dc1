"""Evaluation: an adapter measured on labelled records, by the same code that predicts."""

import math
from collections.abc import Iterator, Sequence
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
from adaptdock.plugins.toolkit.stored import Form, Storing

AT_ONCE = 10_000
"""Records that are computed together, in batches of similar length."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a task, the mean loss, the predictions, and the digests of the logits.

    ``scored`` are the predictions that :meth:`Task.score` compares, one for each record. ``predictions`` are the same,
    or the generated answers to the first records. Many of them are in temporary files.
    """

    metrics: dict[str, Any]
    loss: float
    predictions: Sequence[dict[str, Any]]
    digests: Sequence[list[Tensor]]
    scored: Sequence[dict[str, Any]]


def evaluate(
    dock: Dock, adapter: AdapterFile, records: Sequence[Record], batch_size: int = 32, write: bool = True
) -> Evaluation:
    """Measure an adapter on records that the task has cleaned.

    If a language model writes the task's answers, the first answers are written and compared too, unless ``write`` is
    false.
    """
    with temporarily_docked(dock, adapter) as row:
        task = row[-1].assembly.task
        tally, answers = _Tally(task), _Answers()
        for part in _parts(records):
            answers.add(compute(dock, [row] * len(part), part, batch_size, labelled=True, on_batch=tally.add))
        written = []
        if write and isinstance(task, Writer):
            to_write = list(records[: task.written])
            written = write_records(dock, [row] * len(to_write), to_write, batch_size)
    evaluation = _scored(records, answers, tally)
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
        answers = [_Answers() for _ in rows]
        for part in _parts(records):
            encoded = compute_together(dock, rows, part, batch_size, [tally.add for tally in tallies])
            for answers_of_adapter, items in zip(answers, encoded, strict=True):
                answers_of_adapter.add(items)
    return [_scored(records, *pair) for pair in zip(answers, tallies, strict=True)]


def _parts(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Yield parts of records whose windows and logits are in memory together; empty records are one part."""
    for start in range(0, max(1, len(records)), AT_ONCE):
        yield records[start : start + AT_ONCE]


class _Answers:
    """The predictions for records and the digests of their windows, of which many are in temporary files."""

    def __init__(self) -> None:
        self.predictions: Storing[dict[str, Any]] = Storing()
        self.digests: Storing[list[Tensor]] = Storing(TENSORS)

    def add(self, encoded: Sequence[EncodedRecord]) -> None:
        self.predictions.extend(item.decode() for item in encoded)
        self.digests.extend(item.digests for item in encoded)


def _scored(records: Sequence[Record], answers: _Answers, tally: "_Tally") -> Evaluation:
    predictions = answers.predictions.items
    metrics = tally.task.score(records, predictions)
    return Evaluation(metrics, tally.mean, predictions, answers.digests.items, predictions)


def _packed(tensors: Sequence[Tensor]) -> list[tuple[str, list[int], bytes]]:
    return [
        (
            str(tensor.dtype),
            list(tensor.shape),
            tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for tensor in tensors
    ]


def _unpacked(rows: Sequence[tuple[str, Sequence[int], bytes]]) -> list[Tensor]:
    return [
        torch.frombuffer(bytearray(content), dtype=getattr(torch, dtype.removeprefix("torch."))).reshape(shape)
        if content
        else torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
        for dtype, shape, content in rows
    ]


TENSORS: Form[list[Tensor]] = Form(_packed, _unpacked)
"""Tensors in a file, by their bytes."""


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
