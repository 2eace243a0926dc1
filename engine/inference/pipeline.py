"""The pipeline from records to answers: encode, logits, digest, decode.

Prediction, evaluation, self-training and the server take these steps by the same code; they differ in the batches.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from torch import Tensor

from adaptdock.engine.core.batches import by_length, length
from adaptdock.engine.core.docked_adapters import DockedAdapters, Prepared, Row
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Feature, Reading, Record, Task

TOKENS_PER_BATCH = 8192
TOKENS_PER_VOCABULARY_BATCH = 2048
"""The limit for heads whose logits are as wide as the vocabulary, so that the logits fit in memory."""

BatchHook = Callable[[Sequence[Feature], Sequence[Tensor]], None]
"""Called with the windows and the logits of each batch."""


@dataclass(frozen=True)
class EncodedRecord:
    """A record as windows, with the digests of the computed windows."""

    task: Task
    record: Record
    windows: list[Feature]
    _digests: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def encode(cls, task: Task, record: Record, reading: Reading, labelled: bool = False) -> "EncodedRecord":
        """Encode a record into windows, without computing them."""
        return cls(task, record, task.encode(record, reading, labelled=labelled))

    def digest(self, window: int, logits: Tensor) -> None:
        """Keep the digest of a window's logits: the part that the answer needs."""
        self._digests[window] = self.task.digest(self.windows[window], logits)

    @property
    def complete(self) -> bool:
        """Whether all windows are computed."""
        return len(self._digests) == len(self.windows)

    @property
    def digests(self) -> list[Tensor]:
        """The digests of all windows, in their order."""
        return [self._digests[window] for window in range(len(self.windows))]

    def decode(self) -> dict[str, Any]:
        """Return the prediction; all windows must be computed."""
        return self.task.decode(self.record, self.windows, self.digests)


@contextmanager
def temporarily_docked(dock: DockedAdapters, adapter: AdapterFile | Prepared) -> Iterator[Row]:
    """Dock an adapter under a unique name until the block ends, and yield its row."""
    name = dock.dock(adapter, f"temporary {uuid4()}")
    try:
        with dock.boarding([name]) as (row,):
            yield row
    finally:
        dock.unload(name)


def compute(
    dock: DockedAdapters,
    rows: Sequence[Row],
    records: Sequence[Record],
    batch_size: int,
    labelled: bool = False,
    on_batch: BatchHook | None = None,
) -> list[EncodedRecord]:
    """Encode records and compute all their windows, in batches of similar length; ``rows`` are aboard, one per record.

    ``labelled`` encodes the labels too, for the loss.
    """
    encoded = [
        EncodedRecord.encode(
            row[-1].assembly.task, record, dock.reading(row[-1].card.preprocessing.max_length, row), labelled
        )
        for row, record in zip(rows, records, strict=True)
    ]
    for batch in _batches(rows, encoded, batch_size, labelled):
        windows = [encoded[number].windows[place] for number, place in batch]
        logits = dock.run([rows[number] for number, _ in batch], windows)
        if on_batch is not None:
            on_batch(windows, logits)
        for (number, place), logits_of_window in zip(batch, logits, strict=True):
            encoded[number].digest(place, logits_of_window)
    return encoded


def compute_together(
    dock: DockedAdapters,
    rows: Sequence[Row],
    records: Sequence[Record],
    batch_size: int,
    on_batch: Sequence[BatchHook],
) -> list[list[EncodedRecord]]:
    """Compute the windows of the same labelled records for several adapters, whose tasks encode alike.

    Each batch has the same windows for all ``rows``, which are aboard, one for each adapter, as are the hooks.
    """
    first = rows[0]
    reading = dock.reading(first[-1].card.preprocessing.max_length, first)
    encoded = [EncodedRecord.encode(first[-1].assembly.task, record, reading, labelled=True) for record in records]
    of_adapters = [
        [EncodedRecord(row[-1].assembly.task, item.record, item.windows) for item in encoded] for row in rows
    ]
    for batch in _batches([first] * len(records), encoded, batch_size, labelled=True):
        windows = [encoded[number].windows[place] for number, place in batch]
        logits = dock.run([row for row in rows for _ in batch], windows * len(rows), repeats=True)
        for place_of_row, (of_adapter, hook) in enumerate(zip(of_adapters, on_batch, strict=True)):
            logits_of_row = logits[place_of_row * len(batch) : (place_of_row + 1) * len(batch)]
            hook(windows, logits_of_row)
            for (number, place), logits_of_window in zip(batch, logits_of_row, strict=True):
                of_adapter[number].digest(place, logits_of_window)
    return of_adapters


def _batches(
    rows: Sequence[Row], encoded: Sequence[EncodedRecord], batch_size: int, labelled: bool
) -> Iterator[list[tuple[int, int]]]:
    """Yield batches of (record, window); if ``labelled``, windows that the loss compares stay in one batch."""
    units: list[list[tuple[int, int]]] = []
    for number, item in enumerate(encoded):
        places = [(number, place) for place in range(len(item.windows))]
        units += [places] if places and labelled and item.task.together else [[place] for place in places]
    wide = any(row[-1].assembly.head.over != "hidden" for row in rows)
    lengths = [sum(length(encoded[number].windows[place]) for number, place in unit) for unit in units]
    for batch in by_length(lengths, batch_size, TOKENS_PER_VOCABULARY_BATCH if wide else TOKENS_PER_BATCH):
        yield [place for number in batch for place in units[number]]
