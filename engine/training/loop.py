"""The course of a training: carried out in a folder, kept in time, interrupted and resumed, whatever is trained."""

import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor, nn

from adaptdock.engine.core.assembly import Assembly
from adaptdock.engine.core.batches import shuffled
from adaptdock.engine.core.distributed import ranks, shared
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.hyperparameters import TrainingOptions
from adaptdock.engine.training.run_folders import owned_by_first
from adaptdock.errors import AdaptError, UsageError
from adaptdock.plugins.contracts import Backbone

BEST, CHECKPOINTS, IDENTITY = "best.safetensors", "checkpoints", "identity.json"
Ending = Literal["complete", "early", "interrupted"]
Left = TypeVar("Left")


@dataclass
class Progress:
    """What a run tells those who watch it; ``metrics`` are what validation found, ``shown`` the chief ones of them."""

    step: int
    steps: int
    epoch: float
    loss: float | None = None
    metrics: Mapping[str, Any] | None = None
    shown: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Validated:
    """What a validation found: numbers for the history (``eval_loss`` among them), and all that a card tells."""

    numbers: Mapping[str, float]
    metrics: Mapping[str, Any]
    shown: Mapping[str, float]


class Course(ABC, Generic[Left]):
    """A training that goes through units of data in batches, and validates after each epoch.

    What is trained, and what is left of it, says the class that is made of this one.
    """

    def __init__(self, backbone: Backbone, options: TrainingOptions, folder: Path) -> None:
        self.backbone, self.options, self.folder = backbone, options, folder
        self.dock = Dock(backbone)
        self.started = time.monotonic()

    # ------------------------------------------------------------------------- what is trained

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

    @abstractmethod
    def _finish(self, history: Sequence[Mapping[str, Any]], epochs: float, ending: Ending) -> Left:
        """Measure the best weights for the last time, store them, and return what is left of the run."""

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

    def told(self) -> Mapping[str, float]:
        """Return what stands in the history beside a training loss."""
        return {}

    # ------------------------------------------------------------------------------------- work

    def __call__(self, progress: Callable[[Progress], None] | None = None, resume: bool = False) -> Left:
        """Train, and return what is left of the run: the best adapter, stored.

        With ``resume`` the run goes on from its last complete checkpoint. Ctrl-C ends it with the best
        adapter so far. Raises :class:`AdaptError` where the loss is no longer a number; the last good
        weights are stored all the same, and :class:`LockedError` where another run works in the folder.
        """
        with owned_by_first(self.folder):
            return self._train(progress, resume)

    def _train(self, progress: Callable[[Progress], None] | None, resume: bool) -> Left:
        from adaptdock.engine.training.trainer import LossIsNotFinite, make_trainer

        self._settle(resume)
        trainable = self.trainable()
        if not any(parameter.requires_grad for parameter in trainable.parameters()):
            return self._measure_only(trainable.tensors())
        self.begin_with(trainable.tensors())
        trainer = make_trainer(self, trainable, progress)
        ending: Ending = "complete"
        for assembly in self.assemblies:
            self.dock.ports.acquire(assembly.sites)
        try:
            checkpoint = shared(trainer.last_checkpoint() if resume else None)
            trainer.args.eval_on_start = self.measured_before and checkpoint is None
            if not trainer.had_stopped(checkpoint):
                trainer.train(resume_from_checkpoint=checkpoint)
            if trainer.state.epoch is not None and trainer.state.epoch < self.options.epochs - 0.01:
                ending = "early"
            shared(None)  # no process is still writing a checkpoint
        except KeyboardInterrupt:
            ending = "interrupted"
        except LossIsNotFinite as error:
            self.keep_if_none(error.last_good)
            raise AdaptError(
                f"the loss became {error.loss} in step {error.step}, so training stopped; the last good weights are in "
                f"{self.kept_in}. A smaller learning rate than {self.options.learning_rate:g} mostly helps."
            ) from None
        finally:
            for assembly in self.assemblies:
                self.dock.ports.release(assembly.sites)
        self.keep_if_none(trainable.tensors())
        return self._finish(trainer.state.log_history, trainer.state.epoch or 0, ending)

    @property
    def kept_in(self) -> Path:
        """Where the best weights are."""
        return self.folder / BEST

    @property
    def seconds(self) -> float:
        """The time since this run was made."""
        return time.monotonic() - self.started

    def _tidy(self, ending: Ending) -> None:
        """Remove the checkpoints of a run that nobody will resume."""
        if ending != "interrupted" and ranks().first:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def _measure_only(self, tensors: Mapping[str, Tensor]) -> Left:
        """Keep what has no weights to train as it is: what it does, the backbone does by itself."""
        found = self.check(tensors)
        history = [{**found.numbers, "epoch": 0.0, "step": 0}]
        self.keep_best(history, tensors, found)
        return self._finish(history, 0, "complete")

    def _settle(self, resume: bool) -> None:
        """Make the folder this run's own; a resumed one must have been made by the same decisions."""
        if ranks().first:
            several = {"number of processes": str(ranks().count)} if ranks().count > 1 else {}
            identify(self.folder, {**self.identity(), **several}, resume)
            if not resume:
                shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        shared(None)
        if resume:
            self.recall()


def identify(folder: Path, identity: Mapping[str, str], resume: bool) -> None:
    """Write into a run's folder by which decisions it is made; a resumed one must have been made by the same."""
    file = folder / IDENTITY
    folder.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text()) if resume and file.exists() else identity
    changed = sorted(key for key in {**before, **identity} if before.get(key) != identity.get(key))
    if changed:
        raise UsageError(
            f"the run in {folder} was begun with other {' and '.join(changed)}; start a new run, or resume it with "
            f"what it was begun with"
        )
    file.write_text(json.dumps(identity, indent=2) + "\n")
