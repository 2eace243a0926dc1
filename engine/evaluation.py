"""Evaluation: an adapter measured on labelled records, through the same path that predicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch
from torch.nn.utils.rnn import pad_sequence

from adaptdock.engine.batches import collate_labels
from adaptdock.engine.dock import Dock
from adaptdock.engine.prediction import logits_of
from adaptdock.hub.file import AdapterFile
from adaptdock.plugins.contracts import Record


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a task, the mean loss, and the predictions they come from."""

    metrics: dict[str, Any]
    loss: float
    predictions: list[dict[str, Any]]


def evaluate(dock: Dock, adapter: AdapterFile, records: Sequence[Record], batch_size: int = 32) -> Evaluation:
    """Measure an adapter on records that the task has cleaned."""
    name = dock.dock(adapter, f"measured {uuid4()}")
    try:
        task = dock.assembly(name).task
        with dock.boarding([name]) as (row,):
            reading = dock.reading(adapter.card.preprocessing.max_length, row)
            features = [task.encode(record, reading, labelled=True) for record in records]
            logits = logits_of(dock, [row] * len(records), features, batch_size)
    finally:
        dock.unload(name)
    predictions = [
        task.decode(record, own, found) for record, own, found in zip(records, features, logits, strict=True)
    ]
    flat = [feature for own in features for feature in own]
    if not flat:
        return Evaluation(task.score(records, predictions), math.nan, predictions)
    labels = collate_labels(flat, torch.device("cpu"))
    stacked = pad_sequence([found.float() for own in logits for found in own], batch_first=True)
    loss = float(task.loss(stacked, labels, None))
    return Evaluation(task.score(records, predictions), loss, predictions)
