"""What a run is to the loop and the Trainer: its data, weights and validation, and the progress that it reports."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from adaptdock.engine.core.assembly import Assembly
from adaptdock.engine.core.batches import shuffled
from adaptdock.engine.core.distributed import ranks
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.hyperparameters import TrainingOptions
from adaptdock.plugins.contracts import Backbone

Ending = Literal["complete", "early", "interrupted"]


@dataclass
class Progress:
    """What a run tells those who watch it; ``metrics`` are what validation found, ``shown`` the chief ones of them.

    ``stage`` names a run that is part of a longer one, such as a fold.
    """

    step: int
    steps: int
    epoch: float
    loss: float | None = None
    metrics: Mapping[str, Any] | None = None
    shown: Mapping[str, float] | None = None
    stage: str = ""


@dataclass(frozen=True)
class Validated:
    """What a validation found: numbers for the history (``eval_loss`` among them), and all that a card tells."""

    numbers: Mapping[str, float]
    metrics: Mapping[str, Any]
    shown: Mapping[str, float]


class TrainingRun(ABC):
    """Weights trained on units of data: what the loop and the Trainer ask of a run."""

    def __init__(self, backbone: Backbone, options: TrainingOptions, folder: Path) -> None:
        self.backbone, self.options, self.folder = backbone, options, folder
        self.dock = Dock(backbone)
        self.started = time.monotonic()

    @property
    @abstractmethod
    def assemblies(self) -> Sequence[Assembly]:
        """What is trained; its ports are open meanwhile."""

    @property
    @abstractmethod
    def units(self) -> Sequence[Any]:
        """What is drawn for a batch."""

    @property
    @abstractmethod
    def measured_before(self) -> bool:
        """Whether validation measures the weights at the start too."""

    @property
    def validates(self) -> bool:
        """Whether there is data to measure weights on after each epoch."""
        return True

    @abstractmethod
    def lengths(self) -> list[int]:
        """Return the positions of each unit."""

    @abstractmethod
    def trainable(self) -> Any:
        """Return a module that gives the loss of a batch, and whose ``tensors()`` are the weights by name."""

    @abstractmethod
    def distances(self, trainable: Any) -> Mapping[nn.Parameter, int]:
        """Return how far from the top each parameter that is trained acts (:class:`Distances`)."""

    @abstractmethod
    def collator(self) -> Callable[[Sequence[Any]], dict[str, Any]]:
        """Return what makes a batch of units: the arguments of the module that is trained."""

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Return fingerprints of everything that a resumed run must find unchanged."""

    @abstractmethod
    def begin_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember the start weights, to tell at the end whether training has moved them."""

    @abstractmethod
    def recall(self) -> None:
        """Take what an earlier run has left in the folder as the best so far."""

    @abstractmethod
    def check(self, tensors: Mapping[str, Tensor]) -> Validated:
        """Measure weights, as they would be stored, on the validation data."""

    @abstractmethod
    def keep_best(self, history: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], found: Validated) -> None:
        """Store the weights of the newest validation, if it is the best in the history."""

    @abstractmethod
    def keep_if_none(self, tensors: Mapping[str, Tensor]) -> None:
        """Store these weights where none have been stored."""

    @abstractmethod
    def stalled(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether the best validation of the history is too long ago."""

    def draw(self, epoch: int) -> list[int]:
        """Return the numbers of the units of an epoch in their order, which seed and epoch alone decide.

        Several processes take the batches of a step from it: together they are the batch that one would take.
        """
        options = self.options
        seed = options.seed * 100_003 + epoch
        return shuffled(self.lengths(), options.batch_size * ranks().count, seed, options.group_by_length)

    @property
    def steps_per_epoch(self) -> int:
        """The optimiser steps of an epoch."""
        return self.options.steps_of(len(self.draw(0)))

    @property
    def patient_from(self) -> float:
        """The epoch up to which patience does not count: that of the fewest steps of a run."""
        return self.options.min_steps / self.steps_per_epoch

    def clipped(self, trainable: nn.Module) -> list[list[nn.Parameter]]:
        """Return the parameters whose gradients are measured, and shortened, together."""
        return [list(trainable.parameters())]

    def extra_losses(self) -> Mapping[str, float]:
        """Return what stands in the history beside a training loss."""
        return {}
