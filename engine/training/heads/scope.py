"""Texts out of scope by the distance of their vectors, where that separates them better than the scores do."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from adaptdock.engine.core.assembly import HEAD, entry
from adaptdock.engine.evaluation.head_vectors import HeadReader
from adaptdock.engine.evaluation.measurement import Evaluation
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.pipeline import temporarily_docked
from adaptdock.engine.inference.text_vectors import text_vectors
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Calibrated, Record, Scoped, Task


def with_distance(
    dock: Dock,
    adapter: AdapterFile,
    task: Task,
    settled: Task,
    splits: Mapping[str, Sequence[Record]],
    evaluation: Evaluation,
    measure: Callable[[AdapterFile], Evaluation],
    stored: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
) -> AdapterFile:
    """Return the adapter with a head that measures distances, if that is better on the validation data.

    ``settled`` is the task with the options learnt from ``evaluation``, that of the adapter on the validation data;
    ``measure`` evaluates another adapter there. Otherwise the adapter is returned unchanged.
    """
    records = splits["validation"]
    separation = task.separation(records, evaluation.digests) if isinstance(task, Scoped) else None
    reader = HeadReader.of(settled)
    if separation is None or reader is None:
        return adapter
    with temporarily_docked(dock, adapter) as row:
        text_vectors(dock, row, settled, splits["train"], adapter.card.preprocessing.max_length, on_batch=reader.read)
    vectors, labels = reader.examples()
    assert isinstance(settled, Scoped)
    nearest, tensors = settled.by_distance(vectors, labels)
    head = stored({f"{HEAD}.{name}": tensor for name, tensor in tensors.items()})
    candidate = _with_task(AdapterFile(adapter.card, {**adapter.tensors, **head}), nearest)
    measured = measure(candidate)
    reached = nearest.separation(records, measured.digests)
    if reached is None or reached <= separation:
        return adapter
    assert isinstance(nearest, Calibrated)
    return _with_task(candidate, nearest.settle(records, measured.digests))


def _with_task(adapter: AdapterFile, task: Task) -> AdapterFile:
    card = adapter.card.model_copy(update={"task": entry("task", adapter.card.task.name, task.options)})
    return AdapterFile(card, adapter.tensors)
