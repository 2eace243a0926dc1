"""Planning: before the first step, read and check the data, fit the task, and assemble the adapter."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptdock.engine.core.assembly import Assembly, check_modality, entry, make_methods, make_task, put_together
from adaptdock.engine.core.batches import counts, length, reading
from adaptdock.engine.core.distributed import ranks
from adaptdock.engine.data.sources import NOT_GIVEN, Source
from adaptdock.engine.evaluation.selection import LAST_KEPT, Criterion, too_few
from adaptdock.engine.training.heads.fittable_heads import fits
from adaptdock.engine.training.heads.pairs import pairs_of
from adaptdock.engine.training.loop.schedules import check as check_schedules
from adaptdock.engine.training.planning import pretrained
from adaptdock.engine.training.planning.hyperparameters import (
    DTYPES,
    PLACES,
    REPORTING,
    TrainingOptions,
    lengthened,
    merge_options,
    slowed,
)
from adaptdock.engine.training.planning.packing import begun, pack
from adaptdock.engine.training.planning.recorded_arguments import arguments_of
from adaptdock.engine.training.planning.shared_data import SharedData, Units
from adaptdock.errors import DataError, UsageError
from adaptdock.hub.artefact.card import BaseEntry, PluginEntry
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import (
    Backbone,
    Feature,
    Reading,
    Record,
    Task,
    WindowSampling,
)
from adaptdock.plugins.task_abilities import class_weights
from adaptdock.plugins.toolkit.stored import Form, stored

TRAINED_UNIT: Form[list[Feature]] = Form(
    lambda unit: [
        (feature.inputs, feature.labels, None, feature.cut, feature.row_inputs, feature.content) for feature in unit
    ],
    lambda rows: [Feature(*values) for values in rows],
)
"""The features of a unit in a file, without their alignment, which prediction alone needs."""


@dataclass
class Plan:
    """Every decision before the first step."""

    backbone: Backbone
    task: Task
    task_name: str
    methods: list[PluginEntry]
    on: list[BaseEntry]
    assembly: Assembly
    options: TrainingOptions
    source: Source
    records: dict[str, Sequence[Record]]
    units: Units
    notes: list[str]
    added: dict[str, int] = field(default_factory=dict)
    """Number of training records from each augmentation and from self-training."""
    unlabelled: list[Record] = field(default_factory=list)
    """Records for self-training to label."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of the training as JSON, before any decision; empty where no later training can have them."""
    division_seed: int = 0
    """Seed of the division into splits and folds; runs with several seeds have the data of the first."""

    @property
    def reading(self) -> Reading:
        """The backbone's settings for reading texts in this run."""
        return reading(self.backbone, self.options.max_length, self.assembly.positions)

    @property
    def given(self) -> Sequence[Record]:
        """The training records without added records."""
        records, added = self.records["train"], sum(self.added.values())
        return records[: len(records) - added] if added else records

    @property
    def criterion(self) -> Criterion:
        """What decides which weights are best; without validation data nothing can."""
        return Criterion.of(self.task, self.records.get("validation", []))

    @property
    def undivided(self) -> bool:
        """Whether all labelled records are trained on, and none are validation data."""
        return "validation" not in self.records

    @property
    def held_out(self) -> bool:
        """Whether the validation data are labelled records held out of the training data."""
        return not self.undivided and any(line.startswith(NOT_GIVEN) for line in self.notes)

    def identity(self) -> dict[str, str]:
        """Return fingerprints of everything that a resumed run must find unchanged.

        Of the batch size it is that of all processes together.
        """
        training = self.options.model_dump(mode="json", exclude={*PLACES, *REPORTING, "probe_data"})
        training["batch_size"] *= ranks().count
        parts = {
            "backbone": self.backbone.fingerprint,
            "methods": [method.model_dump(mode="json") for method in self.methods],
            "task options": self.task.options.model_dump(mode="json"),
            "training options": training,
        }
        fingerprints = {name: hashlib.sha256(_json(part)).hexdigest() for name, part in parts.items()}
        fingerprints["data"], _ = self._fingerprints
        if self.unlabelled:
            fingerprints["unlabelled texts"], _ = _fingerprints({"unlabelled": self.unlabelled})
        members = pretrained.fingerprint(self.assembly)
        return fingerprints if members is None else {**fingerprints, "members": members}

    @property
    def data_sha256(self) -> dict[str, str]:
        """The SHA-256 of the records of each split, which does not depend on the format of the files."""
        return self._fingerprints[1]

    @cached_property
    def _fingerprints(self) -> tuple[str, dict[str, str]]:
        return _fingerprints(self.records)

    def class_weights(self) -> Tensor | None:
        """Return a weight per class if they are balanced, else None; raise :class:`UsageError` without classes."""
        if self.options.class_weights != "balanced":
            return None
        weights = class_weights(self.task, self.records["train"])
        if weights is None:
            raise UsageError(f"the task {self.task_name!r} has no classes to weigh")
        return torch.tensor(weights)

    def trained_parameters(self) -> int:
        """Return the number of trained weights in methods and head."""
        return self.assembly.count()

    def summary(self) -> dict[str, Any]:
        """Return the plan as JSON for ``--dry-run`` and the run's folder."""
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


def _fingerprints(splits: Mapping[str, Sequence[Record]]) -> tuple[str, dict[str, str]]:
    """Return the SHA-256 of the records without their places, and that of each split.

    They are hashed as one JSON object, and as a JSON list for each split, which are never in memory as a whole.
    """
    digest, by_split = hashlib.sha256(), {}
    for number, (split, records) in enumerate(sorted(splits.items())):
        part = hashlib.sha256(b"[")
        digest.update((b", " if number else b"{") + _json(split) + b": [")
        for place, record in enumerate(records):
            content = _json({key: value for key, value in record.items() if key != "where"})
            content = b", " + content if place else content
            digest.update(content)
            part.update(content)
        digest.update(b"]")
        part.update(b"]")
        by_split[split] = part.hexdigest()
    digest.update(b"}")
    return digest.hexdigest(), by_split


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def _numel(parameter: Tensor) -> int:
    """Count the weights of a parameter; bitsandbytes packs two 4-bit weights into one element."""
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
    """Plan the training of one task: the draft of :func:`draft`, and the number of epochs.

    Raises the errors of :func:`draft`, and :class:`UsageError` for layers that would never learn.
    """
    training_plan = draft(backbone, task, method, source, options, method_options, task_options, may_undivide=True)
    settle(training_plan, method, len(training_plan.units))
    return training_plan


def settle(plan: Plan, method: str, units: int, instead: str = LAST_KEPT) -> None:
    """Set the epochs of a plan with ``units`` units in an epoch, and add the notes on little data.

    ``instead`` says what chooses the epoch where validation data is too few. Raises :class:`UsageError` for layers that
    would never learn.
    """
    recipe = merge_options(plan.task_name, method, {})
    plan.options, notes = lengthened(plan.options, units, recipe)
    if plan.undivided:
        plan.options, slower = slowed(plan.options, recipe)
        notes += slower
    else:
        notes += too_few(plan.task, plan.records["validation"], instead)
    check_schedules(plan.backbone, plan.assembly, plan.options)
    plan.notes += notes


def draft(
    backbone: Backbone,
    task: str,
    method: str = registry.DEFAULT_METHOD,
    source: Source | None = None,
    options: Mapping[str, Any] | None = None,
    method_options: Mapping[str, Any] | None = None,
    task_options: Mapping[str, Any] | None = None,
    may_undivide: bool = False,
    shared: SharedData | None = None,
) -> Plan:
    """Read and check the data, fit the task, and assemble the adapter, without training.

    With ``may_undivide`` little data stays whole, without validation data (``hold_out``). Plans with the same
    ``shared`` read and encode the same data once.

    Raises :class:`DataError` and :class:`UsageError` for invalid data and options, and the errors of
    :func:`pretrained.adopted` for trained adapters that the method is made of.
    """
    source = source or Source()
    training = requested = merge_options(task, method, options or {})
    dtype = str(backbone.dtype).removeprefix("torch.")
    if training.precision != "auto" and DTYPES[training.precision] != dtype:
        raise UsageError(f"precision {training.precision} is asked for, but the backbone was loaded in {dtype}")
    blank = make_task(task, task_options or {})
    check_modality(backbone, blank)
    methods = [
        (name, pretrained.adopted(instance, backbone))
        for name, instance in make_methods(method, {**training.method_options, **(method_options or {})})
    ]
    entries = [entry("method", name, instance.options) for name, instance in methods]
    shared = shared or SharedData()
    read = shared.read(backbone, blank, task, source, training, may_undivide)
    on, base_parts = pretrained.beneath(Path(training.on), backbone) if training.on else ([], [])
    assembly = put_together(backbone, methods, read.task, base_parts)
    if not fits(assembly):
        training = training.model_copy(update={"head_start": "random"})
    parts = backbone, read.task, task, entries, on, assembly, training, source, dict(read.records)
    arguments = arguments_of(method, methods, requested, method_options, task_options, source, read.files, may_undivide)
    training_plan = Plan(*parts, [], list(read.notes), read.added, read.unlabelled, arguments, training.seed)
    make = partial(make_units, training_plan)
    training_plan.units = shared.units(read, training_plan.reading, training.packing, make)
    if not training_plan.units:
        raise DataError("the training data has no token that is labelled")
    training_plan.options, learning = _learning(training_plan)
    training_plan.notes += [*learning, *_cut(training_plan.units), *_packed(training_plan)]
    return training_plan


def _learning(plan: Plan) -> tuple[TrainingOptions, list[str]]:
    """Return options with a decision between labels and pairs, and a note on few labels.

    Raises :class:`UsageError` where pairs are asked for and cannot be made.
    """
    options = plan.options
    pairs = options.head_start == "fitted" and pairs_of(plan.assembly, plan.units)
    if options.learn_from == "pairs" and not pairs:
        raise UsageError(
            "--learn-from pairs compares texts by their one class and then fits the head: it needs a task that gives a "
            "text one label, texts that fit into a window (--max-length), and a head without hidden layers that starts "
            "fitted (--head-start)"
        )
    if options.learn_from != "auto":
        return options, []
    note = "few labels: the adapter learns from labels, which did better than pairs of texts (--learn-from)"
    return options.model_copy(update={"learn_from": "labels"}), [note] if pairs and plan.undivided else []


def make_units(plan: Plan) -> Units:
    """Return the units of sampling; windows without a labelled token are left out, as they have no loss."""
    if plan.options.cache:  # which finds the states of a feature by its identity
        return list(_units(plan))
    if not plan.options.packing:
        return stored(_units(plan), TRAINED_UNIT)
    examples = [feature for unit in _units(plan) for feature in unit]
    return [[window] for window in pack(plan.backbone, plan.assembly, examples, plan.reading.max_length)]


def _units(plan: Plan) -> Iterator[list[Feature]]:
    reading = plan.reading
    for record in plan.records["train"]:
        windows = [window for window in plan.task.encode(record, reading, True) if counts(window.labels)]
        if isinstance(plan.task, WindowSampling):
            windows = plan.task.sampled_windows(windows)
        if windows and plan.task.together:
            yield windows
        else:
            yield from ([feature] for feature in windows)


def _packed(made: Plan) -> list[str]:
    """Return a note on the examples that share windows, if any do."""
    if not made.options.packing:
        return []
    examples = sum(begun(feature) for unit in made.units for feature in unit)
    return [f"{examples} training examples packed into {len(made.units)} windows"]


def _cut(units: Units) -> list[str]:
    cut = [feature.cut for unit in units for feature in unit if feature.cut]
    if not cut:
        return []
    return [
        f"{len(cut)} training texts are longer than a window: {sum(cut)} of their tokens are cut off (--max-length)"
    ]
