"""Optional abilities of tasks, one protocol each, which the engine finds by ``isinstance``.

A task has an ability if it has its function; it does not inherit or register anything.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from adaptdock.plugins.annotations import AnnotatedText
from adaptdock.plugins.tasks import Feature, Record, Task

if TYPE_CHECKING:
    from torch import Tensor

DOCUMENT = "document"
"""The field of a raw record that names the document of which its text is a part."""


@runtime_checkable
class Calibrated(Protocol):
    """A task that learns from the validation records after the best weights are known (a temperature, a threshold)."""

    def settle(self, records: Sequence[Record], digests: "Sequence[Sequence[Tensor]]") -> Self:
        """Return this task with the learnt options; ``digests`` are those of the records' windows."""


@runtime_checkable
class PseudoLabelling(Protocol):
    """A task whose predictions can become labels, for self-training on texts without labels."""

    def pseudo(
        self, record: Record, features: Sequence[Feature], digests: "Sequence[Tensor]"
    ) -> tuple[Record, float] | None:
        """Return a record of :meth:`Task.read` with predicted labels, and their probability, 0 to 1.

        None if the model predicts no labels.
        """


@runtime_checkable
class Weighted(Protocol):
    """A task with classes, which can be weighted in the loss."""

    def class_weights(self, records: Sequence[Record]) -> list[float] | None:
        """Return a weight for each class that balances the classes; None if the options exclude weights."""


@runtime_checkable
class Grouped(Protocol):
    """A task with records that must go into the same split, because they have a text in common."""

    @classmethod
    def group(cls, record: Record) -> Hashable:
        """Return the key of a raw record's group, such as the common text; None for a record without a group."""


@runtime_checkable
class Annotatable(Protocol):
    """A task that learns from annotated texts, as annotation tools export them."""

    @classmethod
    def annotated(cls, text: AnnotatedText) -> Record | None:
        """Return the raw record of a text; None where its annotation says nothing for this task."""


@runtime_checkable
class Annotating(Protocol):
    """A task with predictions that annotate a text, so that annotation tools can show and correct them."""

    def annotation(self, prediction: Mapping[str, Any]) -> AnnotatedText:
        """Return the text of a prediction with its labels or spans, and its words; the place is empty.

        Words with a tag each have it as their label, and their token as ``stated``.
        """


@runtime_checkable
class UnknownLabels(Protocol):
    """A task whose metrics count labels that it does not know as wrong, so that it can be measured on any data."""

    def unknown(self, records: Sequence[Record]) -> Mapping[str, int]:
        """Return how often labels that the task does not know occur in cleaned records; empty if it knows all."""


@runtime_checkable
class Shown(Protocol):
    """A task that can show a person a cleaned record with its labels, on one line."""

    def shown(self, record: Record) -> str:
        """Return the record as text, like a prediction of :meth:`Task.render`."""


def class_weights(task: Task, records: Sequence[Record]) -> list[float] | None:
    """Return the weights of a task's classes; None for a task without weights."""
    return task.class_weights(records) if isinstance(task, Weighted) else None


def group(task: Task | type[Task], record: Record) -> Hashable:
    """Return the group of a raw record: the one of its task, else its document; None for a record by itself."""
    return task.group(record) if isinstance(task, Grouped) else record.get(DOCUMENT)
