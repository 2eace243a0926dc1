"""Planning: the data read and checked, the task fitted, the adapter put together, before anything is trained."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import Assembly, entry, make_methods, make_task, put_together
from adaptdock.engine.core.batches import counts, length, reading
from adaptdock.engine.data.augmentation import AugmentationSettings, augment, parse
from adaptdock.engine.data.sources import Reader, Source, load_splits
from adaptdock.engine.evaluation.selection import Criterion, too_few
from adaptdock.engine.inference.back_translation import back_translated
from adaptdock.engine.training import pretrained
from adaptdock.engine.training.hyperparameters import (
    DTYPES,
    PLACES,
    REPORTING,
    TrainingOptions,
    lengthened,
    merge_options,
)
from adaptdock.engine.training.packing import begun, pack
from adaptdock.engine.training.schedules import check as check_schedules
from adaptdock.errors import DataError, UsageError
from adaptdock.hub.artefact.card import BaseEntry, PluginEntry
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Feature, PseudoLabelling, Reading, Record, Task
from adaptdock.plugins.task_abilities import class_weights


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

    @property
    def criterion(self) -> Criterion:
        """What decides which weights are best."""
        return Criterion.of(self.task, self.records["validation"])

    def identity(self) -> dict[str, str]:
        """Return fingerprints of everything that a resumed run must find unchanged."""
        parts = {
            "data": {split: list(map(_without_place, records)) for split, records in self.records.items()},
            "backbone": self.backbone.fingerprint,
            "methods": [method.model_dump(mode="json") for method in self.methods],
            "task options": self.task.options.model_dump(mode="json"),
            "training options": self.options.model_dump(mode="json", exclude={*PLACES, *REPORTING}),
        }
        if self.unlabelled:
            parts["unlabelled texts"] = list(map(_without_place, self.unlabelled))
        found = {
            name: hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()
            for name, part in parts.items()
        }
        kept = pretrained.fingerprint(self.assembly)
        return found if kept is None else {**found, "members": kept}

    def class_weights(self) -> Tensor | None:
        """Return a weight per class, if that is asked for; raise :class:`UsageError` where there are no classes."""
        if self.options.class_weights != "balanced":
            return None
        found = class_weights(self.task, self.records["train"])
        if found is None:
            raise UsageError(f"the task {self.task_name!r} has no classes to weigh")
        return torch.tensor(found)

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


def plan(
    backbone: Backbone,
    task: str,
    method: str = registry.DEFAULT_METHOD,
    source: Source | None = None,
    options: Mapping[str, Any] | None = None,
    method_options: Mapping[str, Any] | None = None,
    task_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan a training by itself: what :func:`draft` decides, and the number of epochs.

    Raises what :func:`draft` raises, and :class:`UsageError` for layers that would never learn.
    """
    made = draft(backbone, task, method, source, options, method_options, task_options)
    made.options, notes = lengthened(made.options, len(made.units))
    check_schedules(made.backbone, made.assembly, made.options)
    made.notes += [*notes, *too_few(made.task, made.records["validation"])]
    return made


def draft(
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
    :func:`pretrained.adopted` raises for trained adapters that the method wants.
    """
    source = source or Source()
    chosen = merge_options(task, method, options or {})
    dtype = str(backbone.dtype).removeprefix("torch.")
    if chosen.precision != "auto" and DTYPES[chosen.precision] != dtype:
        raise UsageError(f"precision {chosen.precision} is asked for, but the backbone was loaded in {dtype}")
    blank = make_task(task, task_options or {})
    methods = [
        (name, pretrained.adopted(made, backbone))
        for name, made in make_methods(method, {**chosen.method_options, **(method_options or {})})
    ]
    entries = [entry("method", name, made.options) for name, made in methods]
    raw, notes = load_splits(source, type(blank), chosen.seed, blank)
    records: dict[str, list[Record]] = {}
    for split, given in raw.items():
        cleaned = blank.clean(given, split)
        records[split] = cleaned.records
        notes += cleaned.notes
    if "train" not in records:
        raise DataError("no training data: name it with --data or --train")
    fitted = blank.fit(records["train"]).suit(reading(backbone, chosen.max_length, 0))
    notes += fitted.notes()
    for split in records.keys() - {"train"}:
        fitted.check(records[split], split)
    unlabelled = _unlabelled(chosen, source, fitted, task, notes)
    augmented = augment(records["train"], fitted, augmentation_settings(chosen, backbone))
    records["train"] = [*records["train"], *augmented.records]
    notes += augmented.notes
    on, beneath = pretrained.beneath(Path(chosen.on), backbone) if chosen.on else ([], [])
    assembly = put_together(backbone, methods, fitted, beneath)
    made = Plan(
        backbone, fitted, task, entries, on, assembly, chosen, source, records, [], notes, augmented.added, unlabelled
    )
    made.units = make_units(made)
    if not made.units:
        raise DataError("the training data has no token that is labelled")
    made.notes += _cut(made.units)
    if chosen.packing:
        packed = sum(begun(feature) for unit in made.units for feature in unit)
        made.notes.append(f"{packed} training examples packed into {len(made.units)} windows")
    return made


def _unlabelled(options: TrainingOptions, source: Source, task: Task, name: str, notes: list[str]) -> list[Record]:
    """Return the texts that self-training may label; raise :class:`UsageError` where the task cannot label any.

    How they were read is added to ``notes``.
    """
    if options.unlabelled is None:
        return []
    if not isinstance(task, PseudoLabelling):
        raise UsageError(
            f"the task {name!r} has no pseudo-labels, for it does not say how sure it is: train without --unlabelled"
        )
    reader = Reader(type(task), source)
    records = reader.unlabelled(options.unlabelled, task)
    notes += reader.notes()
    return records


def augmentation_settings(options: TrainingOptions, backbone: Backbone) -> AugmentationSettings:
    """Return what the options say of augmentation."""
    return AugmentationSettings(
        augmentations=parse(options.augment),
        copies=options.augment_copies,
        language=options.augment_language,
        synonyms=None if options.synonyms is None else Path(options.synonyms),
        seed=options.seed,
        translate=partial(back_translated, through=options.back_translation, backbone=backbone),
    )


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
