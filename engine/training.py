"""Training: an adapter and its head, through the ports of a frozen backbone, by transformers' Trainer."""

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from adaptdock.engine import members
from adaptdock.engine.assembly import Assembly, entry, make_methods, make_task, put_together
from adaptdock.engine.augmentation import augment
from adaptdock.engine.batches import counts, length, reading
from adaptdock.engine.data import Reader, Source, load_splits
from adaptdock.engine.dock import Dock, load_backbone
from adaptdock.engine.evaluation import Evaluation, evaluate
from adaptdock.engine.options import DTYPES, PLACES, STORES, TrainingOptions, merge_options, with_precision
from adaptdock.engine.packing import begun, pack
from adaptdock.engine.schedules import check as check_schedules
from adaptdock.hub.card import BackboneEntry, BaseEntry, Card, PluginEntry, Preprocessing
from adaptdock.hub.file import AdapterFile, read_file, write_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Feature, LoadOptions, Reading, Record, Task, Writer
from adaptdock.plugins.errors import AdaptError, DataError, UsageError

BEST, CHECKPOINTS, IDENTITY = "best.safetensors", "checkpoints", "identity.json"


@dataclass
class Plan:
    """Everything that is decided before the first step."""

    backbone: Backbone
    task: Task
    task_name: str
    methods: list[PluginEntry]
    on: list[BaseEntry]
    assembly: Assembly
    options: TrainingOptions
    source: Source
    records: dict[str, list[Record]]
    units: list[list[Feature]]
    """What is drawn for a batch: a window each, or all windows of a record where the loss compares them."""
    notes: list[str]
    added: dict[str, int] = field(default_factory=dict)
    """How many training records augmentations and self-training have added to those given."""
    unlabelled: list[Record] = field(default_factory=list)
    """What self-training may label."""

    @property
    def reading(self) -> Reading:
        """How the backbone reads in this run."""
        return reading(self.backbone, self.options.max_length, self.assembly.positions)

    @property
    def given(self) -> list[Record]:
        """The training records without those that were added to them."""
        return self.records["train"][: len(self.records["train"]) - sum(self.added.values())]

    def identity(self) -> dict[str, str]:
        """Return fingerprints of everything that a resumed run must find unchanged."""
        parts = {
            "data": {split: list(map(_without_place, records)) for split, records in self.records.items()},
            "backbone": self.backbone.fingerprint,
            "methods": [method.model_dump(mode="json") for method in self.methods],
            "task options": self.task.options.model_dump(mode="json"),
            "training options": self.options.model_dump(mode="json", exclude=set(PLACES)),
        }
        if self.unlabelled:
            parts["unlabelled texts"] = list(map(_without_place, self.unlabelled))
        found = {
            name: hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()
            for name, part in parts.items()
        }
        kept = members.fingerprint(self.assembly)
        return found if kept is None else {**found, "members": kept}

    def trained_parameters(self) -> int:
        """Return the number of weights that are trained: the methods' and the head's."""
        return self.assembly.count()

    def summary(self) -> dict[str, Any]:
        """Return what would be trained, on what, for ``--dry-run`` and the run's folder."""
        lengths = sorted(length(feature) for unit in self.units for feature in unit)
        frozen = sum(map(_numel, self.backbone.model.parameters()))
        return {
            "backbone": self.backbone.id,
            "architecture": self.backbone.architecture,
            "task": self.task_name,
            "methods": [method.name for method in self.methods],
            "trained_parameters": self.trained_parameters(),
            "kept_parameters": self.assembly.count(trained=False),
            "head_parameters": sum(
                torch.Size(parameter.shape).numel()
                for parameter in self.assembly.head.parameters(self.assembly.width).values()
            ),
            "share_of_backbone": self.trained_parameters() / frozen,
            "ports": [site.port.name for site in self.assembly.sites.sites],
            "task_options": self.task.options.model_dump(mode="json"),
            "data": {split: self.task.describe(records) for split, records in self.records.items()},
            "added": self.added,
            "unlabelled": len(self.unlabelled),
            "windows": len(lengths),
            "tokens_per_window": {
                "median": lengths[len(lengths) // 2],
                "longest": lengths[-1],
                "limit": self.reading.max_length,
            },
            "options": self.options.model_dump(mode="json", exclude={"method_options"}),
            "notes": self.notes,
        }


def _without_place(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "where"}


def _numel(parameter: Tensor) -> int:
    """Count the weights of a parameter; bitsandbytes packs two of 4 bit into one element."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else torch.Size(state.shape).numel()


@dataclass
class Progress:
    """What a run tells those who watch it."""

    step: int
    steps: int
    epoch: float
    loss: float | None = None
    metrics: Mapping[str, Any] | None = None


@dataclass
class Result:
    """What a run leaves: the adapter, its metrics, and how it ended."""

    adapter: AdapterFile
    file: Path
    size: int
    epochs: float
    seconds: float
    history: list[dict[str, Any]]
    ending: Literal["complete", "early", "interrupted"] = "complete"


def plan(
    backbone: Backbone,
    task: str,
    method: str = registry.DEFAULT_METHOD,
    source: Source | None = None,
    options: Mapping[str, Any] | None = None,
    method_options: Mapping[str, Any] | None = None,
    task_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Read and check the data, fit the task, and put the adapter together; nothing is trained yet.

    Raises :class:`DataError` and :class:`UsageError` for whatever in them cannot work, and what
    :func:`members.adopted` raises for trained adapters that the method wants.
    """
    source = source or Source()
    chosen = merge_options(task, method, options or {})
    dtype = str(backbone.dtype).removeprefix("torch.")
    if chosen.precision != "auto" and DTYPES[chosen.precision] != dtype:
        raise UsageError(f"precision {chosen.precision} is asked for, but the backbone was loaded in {dtype}")
    blank = make_task(task, task_options or {})
    methods = [
        (name, members.adopted(made, backbone))
        for name, made in make_methods(method, {**chosen.method_options, **(method_options or {})})
    ]
    entries = [entry("method", name, made.options) for name, made in methods]
    raw, notes = load_splits(source, type(blank), chosen.seed)
    records: dict[str, list[Record]] = {}
    for split, given in raw.items():
        cleaned = blank.clean(given, split)
        records[split] = cleaned.records
        notes += cleaned.notes
    if "train" not in records:
        raise DataError("no training data: name it with --data or --train")
    fitted = blank.fit(records["train"])
    for split in records.keys() - {"train"}:
        fitted.check(records[split], split)
    unlabelled = _unlabelled(chosen, source, fitted, task)
    augmented = augment(records["train"], fitted, chosen, backbone)
    records["train"] = [*records["train"], *augmented.records]
    notes += augmented.notes
    on, beneath = members.beneath(Path(chosen.on), backbone) if chosen.on else ([], [])
    assembly = put_together(backbone, methods, fitted, beneath)
    made = Plan(
        backbone, fitted, task, entries, on, assembly, chosen, source, records, [], notes, augmented.added, unlabelled
    )
    made.units = make_units(made)
    if not made.units:
        raise DataError("the training data has no token that is labelled")
    check_schedules(made)
    made.notes += _cut(made.units)
    if chosen.packing:
        packed = sum(begun(feature) for unit in made.units for feature in unit)
        made.notes.append(f"{packed} training examples packed into {len(made.units)} windows")
    return made


def _unlabelled(options: TrainingOptions, source: Source, task: Task, name: str) -> list[Record]:
    """Return the texts that self-training may label; raise :class:`UsageError` where the task cannot label any."""
    if options.unlabelled is None:
        return []
    if type(task).pseudo is Task.pseudo:
        raise UsageError(
            f"the task {name!r} has no pseudo-labels, for it does not say how sure it is: train without --unlabelled"
        )
    return Reader(type(task), source).unlabelled(options.unlabelled, task)


def make_units(plan: Plan) -> list[list[Feature]]:
    """Return what batches are drawn from; a window in which nothing is labelled has nothing to teach."""
    units = []
    for record in plan.records["train"]:
        own = [found for found in plan.task.encode(record, plan.reading, True) if counts(found.labels)]
        units += [own] if own and plan.task.together else [[feature] for feature in own]
    if not plan.options.packing:
        return units
    examples = [feature for unit in units for feature in unit]
    return [[window] for window in pack(plan.backbone, plan.assembly, examples, plan.reading.max_length)]


def _cut(units: Sequence[Sequence[Feature]]) -> list[str]:
    cut = [feature.cut for unit in units for feature in unit if feature.cut]
    if not cut:
        return []
    return [
        f"{len(cut)} training texts are longer than a window: {sum(cut)} of their tokens are cut off (--max-length)"
    ]


def train(
    task: str,
    method: str = registry.DEFAULT_METHOD,
    backbone: str | Backbone = registry.DEFAULT_BACKBONE,
    data: str | Source | None = None,
    folder: str | Path | None = None,
    method_options: Mapping[str, Any] | None = None,
    task_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Train an adapter; the result's ``file`` is complete, and its ``adapter`` can be docked.

    ``data`` is a folder, a hub name or a :class:`Source`; None trains on the task's sample. ``options``
    are those of :class:`TrainingOptions`. ``folder`` is a new one under ``runs`` unless named.
    """
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, with_precision(LoadOptions(), options.get("precision", "auto")))
    source = data if isinstance(data, Source) else Source(data=data)
    made = plan(backbone, task, method, source, options, method_options, task_options)
    return carry_out(made, Path(folder) if folder else fresh_folder(task, method))


def carry_out(
    made: Plan,
    folder: Path,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
) -> Result:
    """Train what a plan says: in one run, or in several where there are texts without labels."""
    from adaptdock.engine.selftraining import SelfTraining

    run = SelfTraining(made, folder, name) if made.unlabelled else Run(made, folder, name)
    return run(progress, resume)


def fresh_folder(task: str, method: str) -> Path:
    """Return a folder for a run that does not exist yet: ``runs/<task>-<method>-<time>``."""
    base = f"{task}-{method}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path("runs") / base
    number = 2
    while folder.exists():
        folder = Path("runs") / f"{base}-{number}"
        number += 1
    return folder


def _before(history: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Return what validation found before the first step, if it looked."""
    found = next((entry for entry in history if "eval_loss" in entry and not entry["epoch"]), None)
    return {} if found is None else {"before": {metric: found[f"eval_{metric}"], "loss": found["eval_loss"]}}


def identify(folder: Path, identity: Mapping[str, str], resume: bool) -> None:
    """Write into a run's folder by which decisions it is made; a resumed one must have been made by the same."""
    file = folder / IDENTITY
    folder.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text()) if resume and file.exists() else identity
    changed = sorted(key for key in identity if before.get(key) != identity[key])
    if changed:
        raise UsageError(
            f"the run in {folder} was begun with other {' and '.join(changed)}; start a new run, or resume it with "
            f"what it was begun with"
        )
    file.write_text(json.dumps(identity, indent=2) + "\n")


class Run:
    """One training run: a plan carried out in a folder of its own."""

    def __init__(self, plan: Plan, folder: Path, name: str | None = None) -> None:
        self.plan, self.folder = plan, folder
        self.name = name or plan.task_name
        self.dock = Dock(plan.backbone)
        self.started = time.monotonic()
        self.best: AdapterFile | None = None
        self._newest: Evaluation | None = None
        self._best_found: Evaluation | None = None

    def __call__(self, progress: Callable[[Progress], None] | None = None, resume: bool = False) -> Result:
        """Train and return the best adapter, stored in ``folder / best.safetensors``.

        With ``resume`` the run goes on from its last complete checkpoint. Ctrl-C ends it with the best
        adapter so far. Raises :class:`AdaptError` where the loss is no longer a number; the last good
        weights are stored all the same.
        """
        from adaptdock.engine.trainer import LossIsNotFinite, make_trainer

        self._settle(resume)
        trainable = self.trainable()
        trainer = make_trainer(self, trainable, progress)
        ending: Literal["complete", "early", "interrupted"] = "complete"
        self.dock.ports.acquire(self.plan.assembly.sites)
        try:
            checkpoint = trainer.last_checkpoint() if resume else None
            trainer.args.eval_on_start = type(self.plan.task).measured_before and checkpoint is None
            if not trainer.had_stopped(checkpoint):
                trainer.train(resume_from_checkpoint=checkpoint)
            if trainer.state.epoch is not None and trainer.state.epoch < self.plan.options.epochs - 0.01:
                ending = "early"
        except KeyboardInterrupt:
            ending = "interrupted"
        except LossIsNotFinite as error:
            self._keep_if_none(error.last_good)
            raise AdaptError(
                f"the loss became {error.loss} in step {error.step}, so training stopped; the last good weights are in "
                f"{self.folder / BEST}. A smaller learning rate than {self.plan.options.learning_rate:g} mostly helps."
            ) from None
        finally:
            self.dock.ports.release(self.plan.assembly.sites)
        self._keep_if_none(trainable.tensors())
        return self._finish(trainer, ending)

    def _settle(self, resume: bool) -> None:
        """Make the folder this run's own; a resumed one must have been made by the same decisions."""
        identify(self.folder, self.plan.identity(), resume)
        if not resume:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        elif (self.folder / BEST).exists():
            self.best = read_file(self.folder / BEST)

    def keep(self, tensors: Mapping[str, Tensor], epoch: float, metrics: Mapping[str, Any]) -> None:
        """Store these weights as the best so far, with what validation found."""
        self._best_found = self._newest
        self.best = AdapterFile(self.card(epoch, {"validation": dict(metrics)}), self.stored(tensors))
        write_file(self.folder / BEST, self.best)

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
        from adaptdock.engine.trainable import Trainable

        plan, weights = self.plan, None
        if plan.options.class_weights == "balanced":
            found = plan.task.class_weights(plan.records["train"])
            if found is None:
                raise UsageError(f"the task {plan.task_name!r} has no classes to weigh")
            weights = torch.tensor(found)
        options = plan.options
        return Trainable(plan.backbone, self.dock.ports, plan.assembly, options.seed, weights, options.backbone_dropout)

    def _keep_if_none(self, tensors: Mapping[str, Tensor]) -> None:
        if self.best is None:
            self.best = AdapterFile(self.card(0, {}), self.stored(tensors))
            write_file(self.folder / BEST, self.best)

    def _evaluate(self, adapter: AdapterFile, split: str, write: bool = True) -> Evaluation:
        return evaluate(self.dock, adapter, self.plan.records[split], self.plan.options.batch_size * 2, write)

    def _last_splits(self) -> list[str]:
        """Return what is measured at the end: the test data; else validation again, where it shows more than before."""
        if "test" in self.plan.records:
            return ["test"]
        more = isinstance(self.plan.task, Writer) or type(self.plan.task).settle is not Task.settle
        return ["validation"] if more else []

    def _settled(self, adapter: AdapterFile) -> AdapterFile:
        """Return an adapter whose task has learnt from the validation data what it learns when weights are chosen."""
        if type(self.plan.task).settle is Task.settle:
            return adapter
        found = self._best_found or self._evaluate(adapter, "validation", write=False)
        settled = self.plan.task.settle(self.plan.records["validation"], found.digests)
        card = adapter.card.model_copy(update={"task": entry("task", self.plan.task_name, settled.options)})
        return AdapterFile(card, adapter.tensors)

    def _finish(self, trainer: Any, ending: Literal["complete", "early", "interrupted"]) -> Result:
        assert self.best is not None
        seconds = time.monotonic() - self.started
        metrics = {**_before(trainer.state.log_history, type(self.plan.task).metric), **self.best.card.metrics}
        if ending != "interrupted":
            try:
                self.best = self._settled(self.best)
                metrics |= {split: self._evaluate(self.best, split).metrics for split in self._last_splits()}
            except KeyboardInterrupt:
                ending = "interrupted"
        training = {
            **self.best.card.training,
            "epochs_run": round(trainer.state.epoch or 0, 3),
            "seconds": round(seconds, 1),
            "ending": ending,
        }
        card = self.best.card.model_copy(update={"metrics": metrics, "training": training})
        self.best = AdapterFile(card, self.best.tensors)
        size = write_file(self.folder / BEST, self.best)
        if ending != "interrupted":
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        return Result(
            adapter=self.best,
            file=self.folder / BEST,
            size=size,
            epochs=trainer.state.epoch or 0,
            seconds=seconds,
            history=trainer.state.log_history,
            ending=ending,
        )
