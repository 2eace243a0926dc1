"""A run: one adapter and its head trained through the ports of a frozen backbone."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptdock.engine.core.assembly import Assembly, entry
from adaptdock.engine.core.batches import collate, collate_labels, collate_row_inputs, length
from adaptdock.engine.core.distributed import ranks, shared
from adaptdock.engine.evaluation.measurement import Evaluation, evaluate
from adaptdock.engine.evaluation.report import write_report
from adaptdock.engine.evaluation.selection import Criterion
from adaptdock.engine.training.contract import Ending, Validated
from adaptdock.engine.training.hyperparameters import STORES
from adaptdock.engine.training.loop import TrainingLoop
from adaptdock.engine.training.plan import Plan
from adaptdock.engine.training.schedules import Distances, frozen_until
from adaptdock.engine.training.shortfall import compared, no_better, unmoved
from adaptdock.engine.training.state_cache import Cache
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

    @property
    def shortfall(self) -> str:
        """Why the adapter is of no use, in a sentence; empty where nothing speaks against it."""
        return str(self.adapter.card.training.get("shortfall", ""))

    def report(self, folder: Path, plan: Plan) -> list[str]:
        """Write the report into the run's folder; return the verdict in sentences."""
        card = self.adapter.card
        decisive = plan.criterion.decisive
        return write_report(folder, type(plan.task), card, self.history, decisive, self.size, plan.summary())


def _before(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Return what validation found before the first step, if it looked."""
    found = next((entry for entry in history if "eval_loss" in entry and not entry["epoch"]), None)
    return {} if found is None else {"before": {metric: found[f"eval_{metric}"], "loss": found["eval_loss"]}}


class Run(TrainingLoop[Result]):
    """One training run: a plan carried out in a folder of its own.

    ``together`` is what its card tells of other tasks that it is trained with.
    """

    def __init__(
        self, plan: Plan, folder: Path, name: str | None = None, together: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(plan.backbone, plan.options, folder)
        self.plan = plan
        self.name = name or plan.task_name
        self.together = dict(together or {})
        self.best: AdapterFile | None = None
        self._start: dict[str, Tensor] | None = None
        self._newest: Evaluation | None = None
        self._best_found: Evaluation | None = None

    @property
    def assemblies(self) -> Sequence[Assembly]:
        """The adapter."""
        return [self.plan.assembly]

    @property
    def units(self) -> Sequence[list[Feature]]:
        """Windows, or records of several whose loss compares them."""
        return self.plan.units

    @property
    def measured_before(self) -> bool:
        """Whether the bare backbone can do without training what the task asks."""
        return type(self.plan.task).measured_before

    @cached_property
    def criterion(self) -> Criterion:
        """What decides which weights are best."""
        return self.plan.criterion

    def lengths(self) -> list[int]:
        """Return the longest window of each unit."""
        return [max(map(length, unit)) for unit in self.plan.units]

    def identity(self) -> dict[str, str]:
        """Return the plan's fingerprints."""
        return self.plan.identity()

    def begin_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember the start weights as a file would hold them."""
        self._start = self.stored(tensors)

    def recall(self) -> None:
        """Take the file of an earlier run."""
        if self.kept_in.exists():
            self.best = read_file(self.kept_in)

    def distances(self, trainable: Any) -> Mapping[nn.Parameter, int]:
        """Return how far from the top each parameter acts."""
        return Distances(self.plan.backbone, self.plan.assembly).of_parameters(trainable.head, trainable.parts)

    def collator(self) -> Callable[[Sequence[Any]], dict[str, Any]]:
        """Return what puts windows into one batch, with their labels and what is known of their states."""
        plan, cache = self.plan, None
        if plan.options.cache:
            cache = Cache(plan.backbone, plan.assembly, [feature for unit in plan.units for feature in unit])

        def collated(batch: Sequence[Any]) -> dict[str, Any]:
            features = [feature for unit in batch for feature in unit]
            labels = collate_labels(features, plan.backbone.device)
            row_inputs = collate_row_inputs(plan.assembly.head, features, plan.backbone.device)
            given: dict[str, Any] = {**collate(plan.backbone, features), "labels": labels}
            given |= {"row_inputs": row_inputs} if row_inputs else {}
            return given if cache is None else {**given, "entering": cache.states(features)}

        return collated

    def check(self, tensors: Mapping[str, Tensor]) -> Validated:
        """Measure weights, and name the numbers as the history does."""
        found = self.validate(tensors)
        numbers = {f"eval_{key}": value for key, value in found.metrics.items() if isinstance(value, int | float)}
        name = type(self.plan.task).metric
        return Validated({**numbers, "eval_loss": round(found.loss, 5)}, found.metrics, {name: found.metrics[name]})

    def keep_best(self, history: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], found: Validated) -> None:
        """Store the newest weights if their metric is the best so far."""
        if self.criterion.since_best(history) == 0:
            self.keep(tensors, history[-1]["epoch"], found.metrics)

    def stalled(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether patience is at its end."""
        frozen = frozen_until(self.backbone, self.plan.assembly, self.options)
        since = self.criterion.since_best(history, max(frozen, self.patient_from))
        return bool(self.options.patience) and since is not None and since >= self.options.patience

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

    # ------------------------------------------------------------------------------------ inside

    def trainable(self) -> Any:
        """Return the adapter with its start weights, as a module to train."""
        from adaptdock.engine.training.trainable import Trainable

        plan, options = self.plan, self.options
        weights = plan.class_weights()
        return Trainable(plan.backbone, self.dock.ports, plan.assembly, options.seed, weights, options.backbone_dropout)

    def keep_if_none(self, tensors: Mapping[str, Tensor]) -> None:
        """Store these weights where there are none; nothing is known of them."""
        if self.best is None:
            self.best = AdapterFile(self.card(0, {}), self.stored(tensors))
            self._store(self.best)

    def _store(self, adapter: AdapterFile) -> int:
        """Write the best adapter, in the first of several processes, and return the size of the file."""
        return write_file(self.kept_in, adapter) if ranks().first else 0

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

    def _finish(self, history: Sequence[Mapping[str, Any]], epochs: float, ending: Ending) -> Result:
        assert self.best is not None
        seconds = self.seconds
        before = _before(history, type(self.plan.task).metric) if self.measured_before else {}
        metrics = {**before, **self.best.card.metrics}
        judged: dict[str, Any] = {}
        if ending != "interrupted":
            try:
                self.best = self._settled(self.best)
                metrics |= {split: self._evaluate(self.best, split).metrics for split in self._last_splits()}
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
        self._tidy(ending)
        return Result(self.best, self.kept_in, size, epochs, seconds, [dict(entry) for entry in history], ending)
