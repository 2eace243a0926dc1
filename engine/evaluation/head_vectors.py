"""The vectors that a linear head reads, with their labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adaptdock.engine.core.batches import NOT_COUNTED, collate_labels
from adaptdock.engine.core.forward import mask_for
from adaptdock.engine.inference.text_vectors import Window
from adaptdock.plugins.contracts import Feature, FittedHead, LabelChecked, LinearHead, Task


class HeadReader:
    """Collects the vectors that a linear head reads, with their labels."""

    def __init__(self, task: Any, head: Any) -> None:
        self.task, self.head = task, head
        self.vectors: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.sources: list[tuple[int, Feature, int]] = []
        """The record, window and position of each vector."""

    @classmethod
    def of(cls, task: Task) -> "HeadReader | None":
        """Return a reader; None for a task without a linear head on the hidden states, or without one class each."""
        if not isinstance(task, LabelChecked) or not isinstance(task, FittedHead) or len(task.class_names) < 2:
            return None
        head = task.head()
        is_linear = (
            isinstance(head, LinearHead) and head.over == "hidden" and head.reads == "encoder" and head.front == 0
        )
        return cls(task, head) if is_linear and not task.options.hidden_layers else None

    def read(self, windows: Sequence[Window], states: Tensor, inputs: Mapping[str, Tensor]) -> None:
        """Take the vectors and labels of a batch, on the CPU."""
        mask = mask_for(self.head, inputs)
        vectors = self.head.vectors(states.float(), mask)
        labels = collate_labels([feature for _, feature in windows], mask.device)
        if vectors.ndim == 2:
            vectors, labels = vectors.unsqueeze(1), labels.unsqueeze(1)
        counted = (labels != NOT_COUNTED).nonzero()
        self.vectors.append(vectors[counted[:, 0], counted[:, 1]].cpu())
        self.labels.append(labels[counted[:, 0], counted[:, 1]].cpu())
        self.sources += [(*windows[row], position) for row, position in counted.tolist()]

    def examples(self) -> tuple[Tensor, Tensor]:
        """Return the vectors (N, W) and their classes (N)."""
        return torch.cat(self.vectors), torch.cat(self.labels).long()
