"""What only some tasks can do: a small protocol for each ability, which the engine finds by ``isinstance``.

A task has an ability by having its method; nothing has to be inherited or registered.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from adaptdock.plugins.tasks import Feature, Record, Task

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Calibrated(Protocol):
    """A task that learns from the validation records once the weights are chosen (a temperature, a threshold)."""

    def settle(self, records: Sequence[Record], digests: "Sequence[Sequence[Tensor]]") -> Self:
        """Return this task with what it learns; ``digests`` are those of the records' windows."""


@runtime_checkable
class PseudoLabelling(Protocol):
    """A task whose predictions can become labels, for self-training on texts without labels."""

    def pseudo(
        self, record: Record, features: Sequence[Feature], digests: "Sequence[Tensor]"
    ) -> tuple[Record, float] | None:
        """Return a record that :meth:`Task.read` gave with the labels that the model predicts, and how sure it is.

        That is a probability, 0 to 1. None where the model predicts no labels.
        """


@runtime_checkable
class Weighted(Protocol):
    """A task with classes, which can be given weights in the loss."""

    def class_weights(self, records: Sequence[Record]) -> list[float] | None:
        """Return a weight for each class that evens out the classes; None where the options leave it without any."""


@runtime_checkable
class Grouped(Protocol):
    """A task whose data has records that must stand in the same split, because they have a text in common."""

    @classmethod
    def group(cls, record: Record) -> Hashable:
        """Return what a raw record has in common with those of its group; None for a record that stands alone."""


@runtime_checkable
class Probed(Protocol):
    """A task whose raw records are not what it is asked, so that golden probes need inputs made of them."""

    def probe(self, record: Record) -> Any:
        """Return an input for :meth:`Task.read` that is made of a raw record; None if none can be made of it."""


def class_weights(task: Task, records: Sequence[Record]) -> list[float] | None:
    """Return the weights of a task's classes; None for a task that has none."""
    return task.class_weights(records) if isinstance(task, Weighted) else None


def group(task: Task | type[Task], record: Record) -> Hashable:
    """Return the group of a raw record; None where it stands alone, or the task knows no groups."""
    return task.group(record) if isinstance(task, Grouped) else None
