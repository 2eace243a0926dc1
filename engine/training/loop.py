"""The training loop: a run carried out in a folder, timed, interrupted and resumed."""

import json
import shutil
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor

from adaptdock.engine.core.distributed import ranks, shared
from adaptdock.engine.training.contract import Ending, Progress, TrainingRun
from adaptdock.engine.training.run_folders import owned_by_first
from adaptdock.engine.training.trainer import CHECKPOINTS, LossIsNotFinite, make_trainer
from adaptdock.errors import AdaptError, UsageError

BEST, IDENTITY = "best.safetensors", "identity.json"
Outcome = TypeVar("Outcome")


class TrainingLoop(TrainingRun, Generic[Outcome]):
    """A run that can be called: it trains in batches and validates after each epoch."""

    @abstractmethod
    def _finish(self, history: Sequence[Mapping[str, Any]], epochs: float, ending: Ending) -> Outcome:
        """Measure the best weights for the last time, store them, and return the outcome."""

    def __call__(self, progress: Callable[[Progress], None] | None = None, resume: bool = False) -> Outcome:
        """Train, store the best adapter, and return the outcome.

        With ``resume`` the run goes on from its last complete checkpoint. Ctrl-C ends it with the best
        adapter so far. Raises :class:`AdaptError` where the loss is no longer a number; the last good
        weights are stored all the same, and :class:`LockedError` where another run works in the folder.
        """
        with owned_by_first(self.folder):
            return self._train(progress, resume)

    def _train(self, progress: Callable[[Progress], None] | None, resume: bool) -> Outcome:
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

    def _measure_only(self, tensors: Mapping[str, Tensor]) -> Outcome:
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
