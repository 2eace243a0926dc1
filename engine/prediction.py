"""Prediction: inputs of any adapters in shared batches, answers in the order of the inputs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from adaptdock.engine.batches import by_length, length
from adaptdock.plugins.contracts import Feature, Record

if TYPE_CHECKING:
    from adaptdock.engine.dock import Dock, Row

TOKENS_PER_BATCH = 8192


def predict(dock: "Dock", names: Sequence[str], inputs: Sequence[Any], batch_size: int) -> list[dict[str, Any]]:
    """Return a prediction per input; see :meth:`Dock.predict`."""
    with dock.boarding(names) as rows:
        tasks = [row[-1].assembly.task for row in rows]
        records = [task.read(item) for task, item in zip(tasks, inputs, strict=True)]
        return predict_records(dock, rows, records, batch_size)


def predict_records(
    dock: "Dock", rows: "Sequence[Row]", records: Sequence[Record], batch_size: int
) -> list[dict[str, Any]]:
    """Return a prediction per record, for rows that are aboard."""
    features: list[list[Feature]] = []
    for row, record in zip(rows, records, strict=True):
        top = row[-1]
        reading = dock.reading(top.card.preprocessing.max_length, row)
        features.append(top.assembly.task.encode(record, reading, labelled=False))
    logits = logits_of(dock, rows, features, batch_size)
    return [
        row[-1].assembly.task.decode(record, own, found)
        for row, record, own, found in zip(rows, records, features, logits, strict=True)
    ]


def logits_of(
    dock: "Dock", rows: "Sequence[Row]", features: Sequence[Sequence[Feature]], batch_size: int
) -> list[list[Tensor]]:
    """Return the logits of each record's features, computed in batches of like length."""
    flat = [(owner, feature) for owner, own in enumerate(features) for feature in own]
    answers: list[Tensor | None] = [None] * len(flat)
    for batch in by_length([length(feature) for _, feature in flat], batch_size, TOKENS_PER_BATCH):
        found = dock.logits([rows[flat[number][0]] for number in batch], [flat[number][1] for number in batch])
        for number, logits in zip(batch, found, strict=True):
            answers[number] = logits
    grouped: list[list[Tensor]] = [[] for _ in features]
    for (owner, _), answer in zip(flat, answers, strict=True):
        assert answer is not None  # by_length yields every index once
        grouped[owner].append(answer)
    return grouped
