"""One task of a run: its plan, its validation, and the file of its best adapter."""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import entry, make_task
from adaptdock.engine.core.batches import length
from adaptdock.engine.core.distributed import ranks, shared
from adaptdock.engine.data.checks import check
from adaptdock.engine.evaluation.measurement import Evaluation, evaluate
from adaptdock.engine.evaluation.report import validations, write_report
from adaptdock.engine.evaluation.reporting.page import NAME as PAGE
from adaptdock.engine.evaluation.reporting.page import Subject, write_page
from adaptdock.engine.evaluation.selection import Criterion
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.hyperparameters import STORES
from adaptdock.engine.training.plan import Plan
from adaptdock.engine.training.progress import Ending, Validated
from adaptdock.engine.training.run_folders import BEST
from adaptdock.engine.training.shortfall import compared, no_better, unmoved
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins.contracts import Calibrated, Feature, Writer


@dataclass
class Result:
    """What a run leaves: the adapter, its metrics, and how it ended."""

    adapter: AdapterFile
    file: Path
    size: int
    epochs: float
    seconds: float
    history: list[dict[str, Any]]
    ending: Ending = "complete"
    measured: tuple[str, Evaluation] | None = None
    """The split that was measured last, with the best weights, and its evaluation."""

    @property
    def shortfall(self) -> str:
        """Why the adapter is of no use, in a sentence; empty where nothing speaks against it."""
        return str(self.adapter.card.training.get("shortfall", ""))

    def report(self, folder: Path, plan: Plan) -> list[str]:
        """Write the report into the run's folder, as data and as a page; return the verdict in sentences."""
        card = self.adapter.card
        decisive = plan.criterion.decisive
        verdict = write_report(folder, type(plan.task), card, self.history, decisive, self.size, plan.summary())
        if self.measured or self.ending != "interrupted":
            verdict += self._write_page(folder, plan, verdict)
        return verdict

    def _write_page(self, folder: Path, plan: Plan, verdict: list[str]) -> list[str]:
        """Write the page; return a sentence if a fault in the plugin of the task prevents it."""
        try:
            write_page(folder / PAGE, self._subject(plan, verdict))
        except OSError:
            raise
        except Exception as error:  # the adapter is trained, and a page is not worth its loss
            problem = " ".join(str(error).split())
            return [f"{PAGE} could not be written: {type(error).__name__}: {problem}."]
        return []

    def _subject(self, plan: Plan, verdict: list[str]) -> Subject:
        """Return the content of the page; a result of an earlier process is measured again."""
        card = self.adapter.card
        split, evaluation = self.measured or _measure(Dock(plan.backbone), self.adapter, plan)
        return Subject(
            card=card,
            task=make_task(card.task.name, card.task.options),
            source=plan.source.describe(),
            split=split,
            records=plan.records[split],
            evaluation=evaluation,
            training=plan.given,
            points=validations(self.history, type(plan.task).metric),
            verdict=verdict,
            notes=plan.notes,
            problems=check({**plan.records, "train": plan.given}, plan.task),
        )


def _measure(dock: Dock, adapter: AdapterFile, plan: Plan) -> tuple[str, Evaluation]:
    """Measure an adapter on the test data of its plan, else on the validation data."""
    split = "test" if "test" in plan.records else "validation"
    return split, evaluate(dock, adapter, plan.records[split], plan.options.batch_size * 2)


def _before(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Return what validation found before the first step, if it looked."""
    found = next((entry for entry in history if "eval_loss" in entry and not entry["epoch"]), None)
    return {} if found is None else {"before": {metric: found[f"eval_{metric}"], "loss": found["eval_loss"]}}


class TaskRun:
    """One task of a run, with a folder of its own for the best adapter.

    ``together`` is what its card tells of other tasks that it is trained with.
    """

    def __init__(
        self,
        plan: Plan,
        dock: Dock,
        folder: Path,
        name: str | None = None,
        together: Mapping[str, Any] | None = None,
    ) -> None:
        self.plan, self.dock, self.folder = plan, dock, folder
        self.name = name or plan.task_name
        self.together = dict(together or {})
        self.best: AdapterFile | None = None
        self._started = time.monotonic()
        self._start: dict[str, Tensor] | None = None
        self._newest: Evaluation | None = None
        self._best_found: Evaluation | None = None

    @property
    def units(self) -> Sequence[list[Feature]]:
        """Windows, or all windows of a record where the loss compares them."""
        return self.plan.units

    @property
    def file(self) -> Path:
        """The file of the best weights so far."""
        return self.folder / BEST

    @cached_property
    def criterion(self) -> Criterion:
        """What decides which weights are best."""
        return self.plan.criterion

    def lengths(self) -> list[int]:
        """Return the longest window of each unit."""
        return [max(map(length, unit)) for unit in self.plan.units]

    def begin_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember the start weights as a file would hold them."""
        self._start = self.stored(tensors)

    def recall(self) -> None:
        """Take the file of an earlier run."""
        if self.file.exists():
            self.best = read_file(self.file)

    def check(self, tensors: Mapping[str, Tensor]) -> Validated:
        """Measure weights, and name the numbers as the history does."""
        found = self.validate(tensors)
        numbers = {f"eval_{key}": value for key, value in found.metrics.items() if isinstance(value, int | float)}
        name = type(self.plan.task).metric
        return Validated({**numbers, "eval_loss": round(found.loss, 5)}, found.metrics, {name: found.metrics[name]})

    def keep(self, tensors: Mapping[str, Tensor], epoch: float, metrics: Mapping[str, Any]) -> None:
        """Store these weights as the best so far, with what validation found."""
        self._best_found = self._newest
        self.best = AdapterFile(self.card(epoch, {"validation": dict(metrics)}), self.stored(tensors))
        self._store(self.best)

    def validate(self, tensors: Mapping[str, Tensor]) -> Evaluation:
        """Measure weights, as they would be stored, on the validation data."""
        self._newest = self._evaluate(AdapterFile(self.card(0, {}), self.stored(tensors)), "validation", write=False)
        return self._newest

    def stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights in the precision of the file; float32 where they are too large for 16 bit."""
        dtype = STORES[self.plan.options.store]
        fits = all(tensor.abs().max() <= torch.finfo(dtype).max for tensor in tensors.values())
        return {name: tensor.to(dtype if fits else torch.float32) for name, tensor in tensors.items()}

    def card(self, epoch: float, metrics: Mapping[str, Any]) -> Card:
        """Return the card of this run's adapter."""
        plan = self.plan
        training = {
            "data": plan.source.describe(),
            "splits": {split: len(records) for split, records in plan.records.items()},
            **({"added": plan.added} if plan.added else {}),
            "options": plan.options.described(),
            "best_epoch": round(epoch, 3),
            "precision": str(plan.backbone.dtype).removeprefix("torch."),
            "quantized": plan.backbone.quantized,
            **({"together": self.together} if self.together else {}),
            "libraries": {name: version(name) for name in ("adaptdock", "torch", "transformers", "accelerate")},
            "python": platform.python_version(),
        }
        return Card(
            name=self.name,
            task=entry("task", plan.task_name, plan.task.options),
            methods=plan.methods,
            on=plan.on,
            backbone=BackboneEntry(
                id=plan.backbone.id,
                revision=plan.backbone.revision,
                architecture=plan.backbone.architecture,
                fingerprint=plan.backbone.fingerprint,
                drop_layers=plan.backbone.dropped,
            ),
            preprocessing=Preprocessing(
                max_length=plan.reading.max_length,
                tokenizer=type(plan.backbone.tokenizer).__name__,
                lower_case=getattr(plan.backbone.tokenizer, "do_lower_case", None),
                vocabulary=plan.backbone.vocabulary,
            ),
            training=training,
            metrics=dict(metrics),
        )

    def keep_if_none(self, tensors: Mapping[str, Tensor]) -> None:
        """Store these weights where there are none; nothing is known of them."""
        if self.best is None:
            self.best = AdapterFile(self.card(0, {}), self.stored(tensors))
            self._store(self.best)

    def _store(self, adapter: AdapterFile) -> int:
        """Write the best adapter, in the first of several processes, and return the size of the file."""
        if not ranks().first:
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        return write_file(self.file, adapter)

    def _evaluate(self, adapter: AdapterFile, split: str, write: bool = True) -> Evaluation:
        return evaluate(self.dock, adapter, self.plan.records[split], self.plan.options.batch_size * 2, write)

    def _last_splits(self) -> list[str]:
        """Return what is measured at the end: the test data; else validation again, where it shows more than before."""
        if "test" in self.plan.records:
            return ["test"]
        more = isinstance(self.plan.task, Writer | Calibrated)
        return ["validation"] if more else []

    def _settled(self, adapter: AdapterFile) -> AdapterFile:
        """Return an adapter whose task has learnt from the validation data what it learns when weights are chosen.

        From too few records it learns nothing.
        """
        task = self.plan.task
        if not isinstance(task, Calibrated) or not self.criterion.decisive:
            return adapter
        found = self._best_found or self._evaluate(adapter, "validation", write=False)
        settled = task.settle(self.plan.records["validation"], found.digests)
        card = adapter.card.model_copy(update={"task": entry("task", self.plan.task_name, settled.options)})
        return AdapterFile(card, adapter.tensors)

    def _judged(self, adapter: AdapterFile, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return how an adapter compares with the same answer to every input, and what it falls short of, if anything.

        What is not trained at all is not judged.
        """
        if self._start is None:
            return {}
        comparison = compared(self.plan, self.dock, adapter, metrics)
        shortfall = unmoved(self.plan, self.dock, adapter, self._start) or no_better(self.plan, comparison)
        return ({"baseline": comparison} if comparison else {}) | ({"shortfall": shortfall} if shortfall else {})

    def finish(self, history: Sequence[Mapping[str, Any]], epochs: float, ending: Ending) -> Result:
        """Measure the best weights for the last time, store them, and return the result."""
        assert self.best is not None
        seconds = time.monotonic() - self._started
        before = _before(history, type(self.plan.task).metric) if type(self.plan.task).measured_before else {}
        metrics = {**before, **self.best.card.metrics}
        judged: dict[str, Any] = {}
        measured = None if self._best_found is None else ("validation", self._best_found)
        if ending != "interrupted":
            try:
                self.best = self._settled(self.best)
                for split in self._last_splits():
                    measured = split, self._evaluate(self.best, split)
                    metrics[split] = measured[1].metrics
                judged = self._judged(self.best, metrics)
            except KeyboardInterrupt:
                ending = "interrupted"
        training = {
            **self.best.card.training,
            **judged,
            "epochs_run": round(epochs, 3),
            "seconds": round(seconds, 1),
            "ending": ending,
        }
        card = self.best.card.model_copy(update={"metrics": metrics, "training": training})
        self.best = AdapterFile(card, self.best.tensors)
        size = self._store(self.best)
        size = size if ending == "interrupted" else shared(size)  # the file is complete in all processes
        return Result(self.best, self.file, size, epochs, seconds, [dict(entry) for entry in history], ending, measured)
