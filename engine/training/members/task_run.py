"""One task of a run: its plan, its validation, and the file of its best adapter."""

import platform
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import entry, make_task
from adaptdock.engine.core.batches import length
from adaptdock.engine.core.distributed import ranks, shared
from adaptdock.engine.data.checks import check
from adaptdock.engine.evaluation.label_curve import read_label_curve
from adaptdock.engine.evaluation.label_errors import LabelledVectors, label_errors
from adaptdock.engine.evaluation.measurement import Evaluation, evaluate
from adaptdock.engine.evaluation.report import validations, write_report
from adaptdock.engine.evaluation.reporting.page import NAME as PAGE
from adaptdock.engine.evaluation.reporting.page import Subject, write_page
from adaptdock.engine.evaluation.selection import ENOUGH, Criterion
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.golden_probes import recorded
from adaptdock.engine.training.heads.adapter_shares import SHARES, choose_share, interpolated
from adaptdock.engine.training.heads.classic_comparison import beside_classics, classic_answers
from adaptdock.engine.training.heads.head_fit import FittedHeads, FoldChoice, fit_heads
from adaptdock.engine.training.heads.scope import with_distance
from adaptdock.engine.training.heads.shortfall import compared, no_better, unmoved, untrained
from adaptdock.engine.training.loop.progress import Ending, Validated
from adaptdock.engine.training.loop.run_folders import BEST
from adaptdock.engine.training.members.trainable import Acting, Answering
from adaptdock.engine.training.planning.hyperparameters import STORES
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.planning.probe_inputs import probe_inputs
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins.contracts import Calibrated, Feature, Record, Writer
from adaptdock.plugins.toolkit.stored import joined

HeadFits = dict[Hashable, FittedHeads | None]
"""Fitted heads by the data, method and options that decide them."""
ON_TRAINING_DATA = (
    "the answers on this page are those for the training data: all labelled records were trained on, and the metric to "
    "expect is the one of the folds"
)
FOLDS = "folds"
"""What the records of all folds are called, in the card and on the page."""


@cache  # each reads the metadata of an installed package
def _libraries() -> Mapping[str, str]:
    return {name: version(name) for name in ("adaptdock", "torch", "transformers", "accelerate")}


@dataclass(frozen=True)
class Measured:
    """The records that an adapter was measured on: those of a split, or of all folds of the training data."""

    split: str
    records: Sequence[Record]
    evaluation: Evaluation


@dataclass
class Result:
    """The result of a run: the adapter with its metrics, its file, and the ending."""

    adapter: AdapterFile
    file: Path
    size: int
    epochs: float
    seconds: float
    history: list[dict[str, Any]]
    ending: Ending = "complete"
    measured: Measured | None = None
    """What was measured last, with the best weights; the test data if there is any."""
    read: LabelledVectors | None = None
    """Vectors of the frozen backbone by which the labels of the training data are checked for the page."""

    @property
    def shortfall(self) -> str:
        """A sentence on why the adapter is useless; empty without such a reason."""
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
            write_page(folder / PAGE, replace(self._subject(plan, verdict), label_curve=read_label_curve(folder)))
        except OSError:
            raise
        except Exception as error:  # the adapter is trained, and a page is not worth its loss
            problem = " ".join(str(error).split())
            return [f"{PAGE} could not be written: {type(error).__name__}: {problem}."]
        return []

    def _subject(self, plan: Plan, verdict: list[str]) -> Subject:
        """Return the content of the page; a result of an earlier process is measured again."""
        card = self.adapter.card
        measured = self.measured or _measure(Dock(plan.backbone), self.adapter, plan)
        return Subject(
            card=card,
            task=make_task(card.task.name, card.task.options),
            source=plan.source.describe(),
            split=measured.split,
            records=measured.records,
            evaluation=measured.evaluation,
            training=plan.given,
            points=validations(self.history, type(plan.task).metric),
            verdict=verdict,
            notes=[*plan.notes, *([ON_TRAINING_DATA] if measured.split == "train" else [])],
            problems=check({**plan.records, "train": plan.given}, plan.task),
            label_errors=[] if self.read is None else label_errors(plan.task, self.read, plan.options.seed) or [],
            labels_checked=0 if self.read is None else len(self.read.records),
        )


def _measure(dock: Dock, adapter: AdapterFile, plan: Plan) -> Measured:
    """Measure an adapter on the test data of its plan, else on the validation data, else on the training data."""
    split = next(split for split in ("test", "validation", "train") if split in plan.records)
    records = plan.given if split == "train" else plan.records[split]
    return Measured(split, records, evaluate(dock, adapter, records, plan.options.batch_size * 2))


def _before(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Return the metrics of a validation before the first step, or an empty mapping without one."""
    start = next((entry for entry in history if "eval_loss" in entry and not entry["epoch"]), None)
    return {} if start is None else {"before": {metric: start[f"eval_{metric}"], "loss": start["eval_loss"]}}


class TaskRun:
    """One task of a run, with its own folder for the best adapter.

    ``together`` is the card's entry on other tasks in the same run; ``try_folds`` measures
    a plan without validation data on folds, after the adapter is trained. ``label`` is its name among the tasks of the
    run, by default ``name``, which is the adapter's name.
    """

    def __init__(
        self,
        plan: Plan,
        dock: Dock,
        folder: Path,
        name: str | None = None,
        together: Mapping[str, Any] | None = None,
        try_folds: Callable[[], FoldChoice | None] | None = None,
        label: str | None = None,
    ) -> None:
        self.plan, self.dock, self.folder = plan, dock, folder
        self.name = name or plan.task_name
        self.label = label or self.name
        self.together = dict(together or {})
        self.try_folds = try_folds
        self.heads: FittedHeads | None = None
        self.best: AdapterFile | None = None
        self._untrained = ""
        self._head_alone = False
        self._started = time.monotonic()
        self._start: dict[str, Tensor] | None = None
        self._newest: Evaluation | None = None
        self._best_found: Evaluation | None = None

    @property
    def units(self) -> Sequence[list[Feature]]:
        """Units of sampling: single windows, or all windows of a record if the loss compares them."""
        return self.plan.units

    @property
    def validates(self) -> bool:
        """Whether there is validation data."""
        return not self.plan.undivided

    @property
    def file(self) -> Path:
        """The file of the best weights so far."""
        return self.folder / BEST

    @cached_property
    def criterion(self) -> Criterion:
        """The criterion that chooses the best weights."""
        return self.plan.criterion

    def lengths(self) -> list[int]:
        """Return the longest window of each unit."""
        return [max(map(length, unit)) for unit in self.plan.units]

    def begin_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Store the initial weights in the precision of the file."""
        self._start = self.stored(tensors)

    def recall(self) -> None:
        """Load the file of an earlier run; without validation data its weights are those of the interruption."""
        if self.validates and self.file.exists():
            self.best = read_file(self.file)

    def validated(self, evaluation: Evaluation) -> Validated:
        """Return the newest validation; its numbers have the keys of the history."""
        self._newest = evaluation
        name = type(self.plan.task).metric
        return Validated(self._numbers(evaluation), evaluation.metrics, {name: evaluation.metrics[name]})

    @staticmethod
    def _numbers(evaluation: Evaluation) -> dict[str, float]:
        """Return the numbers of an evaluation by their names in the history."""
        numbers = {f"eval_{key}": value for key, value in evaluation.metrics.items() if isinstance(value, int | float)}
        return {**numbers, "eval_loss": round(evaluation.loss, 5)}

    def keep(self, tensors: Mapping[str, Tensor], epoch: float, metrics: Mapping[str, Any]) -> None:
        """Store weights as the best so far, with their validation metrics."""
        self._best_found = self._newest
        self.best = AdapterFile(self.card(epoch, {"validation": dict(metrics)}), self.stored(self._with_head(tensors)))
        self._store(self.best)

    def candidate(self, tensors: Mapping[str, Tensor]) -> AdapterFile:
        """Return an adapter with weights to validate, in the precision of the file."""
        return AdapterFile(self.card(0, {}), self.stored(self._with_head(tensors)))

    def _with_head(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return weights with a head fitted on the vectors that they make, where pairs train the adapter alone."""
        if self.plan.options.learn_from != "pairs":
            return tensors
        heads = fit_heads(self.plan, self.dock.ports, Acting(self.plan.assembly, tensors))
        return {**tensors, **(heads.answer if heads else {})}

    def stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights in the precision of the file, or in float32 if they are too large for 16 bit."""
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
            **({"arguments": plan.arguments, "data_sha256": plan.data_sha256} if plan.arguments else {}),
            "best_epoch": round(epoch, 3),
            "precision": str(plan.backbone.dtype).removeprefix("torch."),
            "quantized": plan.backbone.quantized,
            **({"together": self.together} if self.together else {}),
            "libraries": dict(_libraries()),
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
                tokenizer=type(plan.backbone.processor or plan.backbone.tokenizer).__name__,
                lower_case=getattr(plan.backbone.tokenizer, "do_lower_case", None),
                vocabulary=plan.backbone.vocabulary,
            ),
            training=training,
            metrics=dict(metrics),
        )

    def fit_heads(self, head: Answering, acting: Acting, answers_alone: bool, earlier: HeadFits) -> None:
        """Fit the head on the vectors of the frozen backbone, and start from it, if the options say so.

        Among ``earlier`` may be the fit of an equal method on the same data.

        Unless it ``answers_alone`` the fitted head is never saved in place of the trained adapter, which others share.
        """
        if self.plan.options.head_start == "random":
            return
        plan = self.plan
        options = plan.options.seed, plan.options.class_weights, plan.reading.max_length
        methods = tuple(entry.model_dump_json() for entry in (*plan.methods, *plan.on))
        data = id(plan.records["train"]), plan.task_name, plan.task.options.model_dump_json()
        if (key := (*data, *options, *methods)) not in earlier:
            earlier[key] = fit_heads(plan, self.dock.ports, acting)
        heads = earlier[key]
        if heads is not None:
            head.load(heads.start)
        if answers_alone:
            self.heads = heads

    def keep_if_none(self, tensors: Mapping[str, Tensor]) -> None:
        """Store weights without metrics, if none are stored yet."""
        if self.best is None:
            self.best = AdapterFile(self.card(0, {}), self.stored(self._with_head(tensors)))
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
        """Return the splits to measure at the end: test, else validation again if the task then has more metrics."""
        if "test" in self.plan.records:
            return ["test"]
        more = isinstance(self.plan.task, Writer | Calibrated) and self.validates
        return ["validation"] if more else []

    def _settled(self, adapter: AdapterFile) -> AdapterFile:
        """Return an adapter whose task is calibrated on the validation data, after the choice of weights.

        With too few records the adapter is returned unchanged.
        """
        task = self.plan.task
        if not isinstance(task, Calibrated) or not self.criterion.decisive:
            return adapter
        evaluation = self._best_found or self._evaluate(adapter, "validation", write=False)
        settled = task.settle(self.plan.records["validation"], evaluation.digests)
        card = adapter.card.model_copy(update={"task": entry("task", self.plan.task_name, settled.options)})
        adapter = AdapterFile(card, adapter.tensors)
        measure = partial(self._evaluate, split="validation", write=False)
        return with_distance(self.dock, adapter, task, settled, self.plan.records, evaluation, measure, self.stored)

    def fitted_answer(self) -> AdapterFile | None:
        """Return the fitted head with the adapter's start weights; None where no head is fitted."""
        if self.heads is None or self._start is None:
            return None
        return AdapterFile(self.card(0, {}), self.stored({**self._start, **self.heads.answer}))

    def measured(self, adapter: AdapterFile, records: Sequence[Record]) -> Evaluation:
        """Measure an adapter on cleaned records."""
        return evaluate(self.dock, adapter, records, self.plan.options.batch_size * 2, write=False)

    def by_share(self) -> dict[float, AdapterFile]:
        """Return the finished adapter with each share of its trained change; with all of it without a fitted head."""
        assert self.best is not None
        answer = self.fitted_answer()
        if answer is None:
            return {1.0: self.best}
        return {0.0: answer, **{share: self._with_share(share) for share in SHARES if 0 < share < 1}, 1.0: self.best}

    def _with_share(self, share: float) -> AdapterFile:
        """Return the trained adapter with a share of its change, and a head fitted on the vectors that it makes.

        Gradient steps on few records stop anywhere; the fit has one optimum, and its regularisation is chosen.
        """
        assert self.best is not None
        assert self._start is not None
        tensors = interpolated(self._start, self.best.tensors, share)
        heads = fit_heads(self.plan, self.dock.ports, Acting(self.plan.assembly, tensors))
        return AdapterFile(self.best.card, self.stored({**tensors, **(heads.answer if heads else {})}))

    def _against_fitted(self, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Keep the fitted head with the adapter's start weights unless training is better beyond a standard error.

        Return what a card says of the comparison. Validation data that is too few to tell is measured alone.
        """
        answer = self.fitted_answer()
        if answer is None or self.best is None or self.criterion.best(history) is None:
            return {}
        evaluation = self._evaluate(answer, "validation", write=False)
        trained = self._best_found or self._evaluate(self.best, "validation", write=False)
        predictions = {0.0: evaluation.scored, 1.0: trained.scored}
        records = self.plan.records["validation"]
        if self.criterion.decisive and not choose_share(self.plan.task, records, predictions).share:
            card = self.card(0, {"validation": evaluation.metrics})
            self._take_head(AdapterFile(card, {**answer.tensors, **self._head_on_all(evaluation)}))
            self._best_found = evaluation
        name = type(self.plan.task).metric
        reached = {name: evaluation.metrics[name], "loss": self._numbers(evaluation)["eval_loss"]}
        return {"fitted_head": {"validation": reached, "kept": self._head_alone}}

    def _head_on_all(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return the head alone fitted on the validation records too, if they were held out of the training data.

        Like the final fit after a grid search: what it reaches was measured before. Nothing where the task learns more
        from the validation data (a temperature, a threshold), with ``evaluation`` of the head as it was: records that
        the head has seen would mislead it.
        """
        assert self._start is not None
        task, held_out = self.plan.task, self.plan.records["validation"] if self.plan.held_out else []
        if not held_out:
            return {}
        if isinstance(task, Calibrated) and task.settle(held_out, evaluation.digests).options != task.options:
            return {}
        records = joined(self.plan.given, held_out)
        plan = replace(self.plan, records={**self.plan.records, "train": records}, added={})
        heads = fit_heads(plan, self.dock.ports, Acting(plan.assembly, self._start))
        return {} if heads is None else self.stored(heads.answer)

    def _judged(self, adapter: AdapterFile, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the comparison of an adapter with a constant answer, and its shortfall, if any.

        An adapter without trained weights is not judged.
        """
        if self._start is None:
            return {}
        comparison = compared(self.plan, self.dock, adapter, metrics)
        still = self._untrained if self._head_alone else unmoved(self.plan, self.dock, adapter, self._start)
        shortfall = still or no_better(self.plan, comparison)
        return ({"baseline": comparison} if comparison else {}) | ({"shortfall": shortfall} if shortfall else {})

    def _by_folds(self) -> FoldChoice | None:
        """Keep the share of the trained change that folds choose, all of it without folds; return their choice."""
        choice = None if self.try_folds is None else self.try_folds()
        answer, share = self.fitted_answer(), 1.0 if choice is None else choice.choice.share
        if answer is not None and not self.validates:
            if share:
                self.best = self._with_share(share)
            else:
                self._take_head(answer)
        return choice

    def _on_validation(self) -> Measured | None:
        """Return the best weights' evaluation on the validation data; None without one."""
        if self._best_found is None:
            return None
        return Measured("validation", self.plan.records["validation"], self._best_found)

    def _beside_classics(self, split: str, evaluation: Evaluation) -> dict[str, Any]:
        """Return what a card says of classic answers to the records of a split, if they are enough to tell."""
        task, records = self.plan.task, self.plan.records[split]
        if task.support(records) < ENOUGH:
            return {}
        classics = classic_answers(task, self.plan.given, records)
        return beside_classics(task, records, evaluation.scored, classics, f"the {split} data")

    def _take_head(self, answer: AdapterFile) -> None:
        """Keep the fitted head in place of the trained adapter."""
        assert self.best is not None
        assert self._start is not None
        self._head_alone = True
        self._untrained = untrained(self.plan, self.best, self._start)
        self.best = answer

    def _probed(self, adapter: AdapterFile) -> AdapterFile:
        """Return an adapter with golden probes, which are checked when it is docked."""
        plan, origin = self.plan, self.plan.options.probe_data
        if origin == "none":
            return adapter
        return recorded(self.dock, adapter, probe_inputs(plan.task, origin, plan.source, plan.options.seed), origin)

    def finish(self, history: Sequence[Mapping[str, Any]], epochs: float, ending: Ending) -> Result:
        """Measure and store the best weights at the end of training, and return the result."""
        assert self.best is not None
        seconds = time.monotonic() - self._started
        before = _before(history, type(self.plan.task).metric) if type(self.plan.task).measured_before else {}
        metrics: dict[str, Any] = {}
        judged: dict[str, Any] = {}
        measured = self._on_validation()
        if ending != "interrupted":
            try:
                choice = self._by_folds()
                judged = self._against_fitted(history)
                measured = self._on_validation()
                metrics = {**before, **self.best.card.metrics}
                if choice is not None:
                    seconds = time.monotonic() - self._started
                    measured = Measured(FOLDS, choice.records, choice.evaluation)
                    judged |= {FOLDS: choice.described(), **choice.classics}
                    metrics[FOLDS] = choice.metrics
                self.best = self._settled(self.best)
                for split in self._last_splits():
                    measured = Measured(split, self.plan.records[split], self._evaluate(self.best, split))
                    metrics[split] = measured.evaluation.metrics
                if measured is None and self.plan.backbone.divided:  # for the page, which one process writes alone
                    measured = _measure(self.dock, self.best, self.plan)
                judged |= self._judged(self.best, metrics)
                if measured is not None and measured.split != FOLDS:
                    judged |= self._beside_classics(measured.split, measured.evaluation)
            except KeyboardInterrupt:
                ending = "interrupted"
        metrics = metrics or {**before, **self.best.card.metrics}
        training = {
            **self.best.card.training,
            **judged,
            **({} if self.validates or self._head_alone else {"best_epoch": round(epochs, 3)}),
            "epochs_run": round(epochs, 3),
            "seconds": round(seconds, 1),
            "ending": ending,
        }
        card = self.best.card.model_copy(update={"metrics": metrics, "training": training})
        self.best = AdapterFile(card, self.best.tensors)
        self.best = self.best if ending == "interrupted" else self._probed(self.best)
        size = self._store(self.best)
        # shared() also waits for the first process, so that every process can read the complete file.
        size = size if ending == "interrupted" else shared(size)
        read = None if self.heads is None else self.heads.read
        return Result(self.best, self.file, size, epochs, seconds, list(map(dict, history)), ending, measured, read)
