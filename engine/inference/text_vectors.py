"""Vectors of texts: the mean of the last hidden states, with or without an adapter."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.engine.core.batches import by_length, collate, encoder_inputs, length
from adaptdock.engine.core.docked_adapters import DockedAdapters, Row
from adaptdock.engine.core.length_groups import length_groups
from adaptdock.engine.inference.pipeline import TOKENS_PER_BATCH
from adaptdock.plugins.contracts import Feature, Record, Task
from adaptdock.plugins.toolkit.heads import mean_state

Window = tuple[int, Feature]
"""The number of a record, and one of its windows."""
StatesHook = Callable[[Sequence[Window], Tensor, Mapping[str, Tensor]], None]
"""Called with the windows of each batch, their hidden states (R, T, W), and their inputs."""


def text_vectors(
    dock: DockedAdapters,
    row: Row,
    task: Task,
    records: Sequence[Record],
    max_length: int,
    batch_size: int = 32,
    on_batch: StatesHook | None = None,
) -> Tensor:
    """Return a vector of length 1 for each record (N, W), float32 on the CPU: the mean over its windows.

    ``row`` is aboard; an empty row is the bare backbone. A record without a token has a vector of zeros. With
    ``on_batch`` the windows have the labels of the loss.
    """
    reading, labelled = dock.reading(max_length, row), on_batch is not None
    windows = [
        (number, feature) for number, record in enumerate(records) for feature in task.encode(record, reading, labelled)
    ]
    vectors = torch.zeros(len(records), dock.backbone.width)
    features = [encoder_inputs(feature) for _, feature in windows]
    for batch in _batches(dock, features, batch_size):
        inputs = collate(dock.backbone, [features[place] for place in batch])
        states = dock.hidden([row] * len(batch), inputs)
        if on_batch is not None:
            on_batch([windows[place] for place in batch], states, inputs)
        means = mean_state(states.float(), inputs["attention_mask"]).squeeze(1).cpu()
        vectors.index_add_(0, torch.tensor([windows[place][0] for place in batch]), means)
    return functional.normalize(vectors, dim=-1)


def _batches(dock: DockedAdapters, features: Sequence[Feature], batch_size: int) -> Iterator[list[int]]:
    for batch in by_length([length(feature) for feature in features], batch_size, TOKENS_PER_BATCH):
        for group in length_groups(dock.backbone, [features[place] for place in batch]):
            yield [batch[number] for number in group]
