"""Processors: how a backbone that reads images or sounds makes its inputs of their contents.

The engine knows neither images nor sounds. It compares the modality of a task with that of a backbone, and asks the
processor for the tensors of a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

TEXT = "text"
"""The modality of tasks and backbones that read tokens."""
Content = tuple[str, int]
"""The contents of a row: a source (a path, or a data URL), and the number of the window in it."""


class Processor(ABC):
    """The reading side of a backbone that reads other things than tokens; safe for use by many threads."""

    modality: ClassVar[str]
    """What it reads, as the plural of a noun: ``images``, ``sounds``. Tasks of the same modality fit."""

    @abstractmethod
    def windows(self, source: str) -> list[list[int]]:
        """Return the mask of each window of a source, which is the ``attention_mask`` of its feature.

        It has a number for each position of the hidden states, zero where a head should not read.
        :attr:`Feature.content` has the source and the number of the window. Raises :class:`DataError` for a source
        that cannot be read.
        """

    @abstractmethod
    def tensors(self, contents: Sequence[Content]) -> "Mapping[str, Tensor]":
        """Return the model's float inputs by name, one row for each content, on the CPU."""

    @abstractmethod
    def digest(self, content: Content) -> str:
        """Return a hash of a content, which changes with the file behind a path."""
