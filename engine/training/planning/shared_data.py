"""The data of a plan: read, cleaned, fitted and encoded, once for all plans of the same data."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from adaptdock.engine.core.batches import reading
from adaptdock.engine.core.distributed import ranks
from adaptdock.engine.data.augmentation import AugmentationSettings, augment, parse
from adaptdock.engine.data.sources import NOT_GIVEN, Reader, Source, load_splits
from adaptdock.engine.evaluation.selection import ENOUGH, uncalibrated
from adaptdock.engine.inference.back_translation import back_translated
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions
from adaptdock.errors import DataError, UsageError
from adaptdock.plugins.contracts import Backbone, Feature, FittedHead, PseudoLabelling, Reading, Record, Task
from adaptdock.plugins.toolkit.stored import joined

Units = Sequence[list[Feature]]
"""Units of sampling for batches: single windows, or all windows of a record if the loss compares them."""
OPTIONS = {
    *("seed", "hold_out", "max_length", "unlabelled", "augment", "augment_copies", "augment_language", "synonyms"),
    "back_translation",
}
"""Training options on which the records of a plan depend."""


@dataclass(frozen=True)
class ReadData:
    """The cleaned records of each split, with augmented copies, and the task that was fitted to them."""

    records: Mapping[str, Sequence[Record]]
    task: Task
    notes: Sequence[str]
    added: dict[str, int]
    unlabelled: list[Record]


@dataclass
class SharedData:
    """Data of earlier plans on one backbone, which later plans of the same data use again."""

    _read: dict[str, tuple[Source, ReadData]] = field(default_factory=dict)
    _units: dict[tuple[int, int], tuple[ReadData, Units]] = field(default_factory=dict)

    def read(
        self, backbone: Backbone, blank: Task, name: str, source: Source, training: TrainingOptions, may_undivide: bool
    ) -> ReadData:
        """Return the data of a source for a task without labels yet, whose name is ``name``.

        Raises :class:`DataError` and :class:`UsageError` for data and options that cannot be used.
        """
        options = {"task": name, "options": blank.options.model_dump(mode="json"), "may_undivide": may_undivide}
        key = json.dumps({**options, **training.model_dump(mode="json", include=OPTIONS)}, sort_keys=True)
        earlier = self._read.get(key)
        if earlier is None or earlier[0] != source:
            earlier = self._read[key] = source, _read(backbone, blank, name, source, training, may_undivide)
        return earlier[1]

    def units(self, read: ReadData, reading: Reading, packing: bool, make: Callable[[], Units]) -> Units:
        """Return the units of sampling of a plan; packed windows depend on its adapter too, so it shares none."""
        if packing:
            return make()
        key = id(read), reading.max_length
        if key not in self._units:
            self._units[key] = read, make()  # the data is kept, so that no other gets its id
        return self._units[key][1]


def _read(
    backbone: Backbone, blank: Task, name: str, source: Source, training: TrainingOptions, may_undivide: bool
) -> ReadData:
    raw, notes = load_splits(source, type(blank), training.seed, blank)
    if may_undivide and training.hold_out == "auto" and training.unlabelled is None:
        raw, notes = _undivided(raw, notes, blank)
    records = _cleaned(raw, blank, notes)
    fitted = blank.fit(records["train"]).suit(reading(backbone, training.max_length, 0))
    notes += fitted.notes()
    for split in records.keys() - {"train"}:
        fitted.check(records[split], split)
    unlabelled = _unlabelled(training, source, fitted, name, notes)
    augmented = augment(records["train"], fitted, augmentation_settings(training, backbone))
    records["train"] = joined(records["train"], augmented.records)
    notes += augmented.notes
    return ReadData(records, fitted, notes, augmented.added, unlabelled)


def _cleaned(raw: Mapping[str, Sequence[Record]], task: Task, notes: list[str]) -> dict[str, Sequence[Record]]:
    """Return the cleaned records of each split, and add to ``notes``; raise :class:`DataError` without labels."""
    records: dict[str, Sequence[Record]] = {}
    for split, raw_records in raw.items():
        cleaned = task.clean(raw_records, split)
        notes += cleaned.notes
        if cleaned.records:
            records[split] = cleaned.records
        elif split == "test":  # public test data often has no labels
            notes.append("test: none of its records is labelled, so nothing is measured on it")
        else:
            raise DataError(f"{split}: none of its {len(raw_records)} records is labelled")
    if "train" not in records:
        raise DataError("no training data: give --data or --train")
    return records


def _undivided(
    raw: dict[str, Sequence[Record]], notes: list[str], task: Task
) -> tuple[dict[str, Sequence[Record]], list[str]]:
    """Return the splits with held-out records put back, where those are too few to choose an epoch by."""
    held_out = any(line.startswith(NOT_GIVEN) for line in notes)
    if not held_out or not isinstance(task, FittedHead) or ranks().count > 1:
        return raw, notes
    records = task.clean(raw["validation"], "validation").records
    answers = task.support(records)
    if min(len(records), answers) >= ENOUGH:  # the words of a sentence are not independent answers
        return raw, notes
    whole = joined(raw["train"], raw["validation"])
    start = next(number for number, line in enumerate(notes) if line.startswith(NOT_GIVEN))
    note = (
        f"few labels: all {len(whole)} records are trained on, and further runs on four folds of them measure what to "
        f"expect{uncalibrated(task)}. None are held out, for a tenth of them has {answers} answers in {len(records)} "
        f"records, and with fewer than {ENOUGH} of either chance would choose the epoch (--hold-out)"
    )
    others = {split: records for split, records in raw.items() if split not in ("train", "validation")}
    return {"train": whole, **others}, [*notes[:start], note]


def _unlabelled(options: TrainingOptions, source: Source, task: Task, name: str, notes: list[str]) -> list[Record]:
    """Return the texts for self-training; raise :class:`UsageError` for a task without pseudo-labels.

    Notes on the reading of the file are added to ``notes``.
    """
    if options.unlabelled is None:
        return []
    if not isinstance(task, PseudoLabelling):
        raise UsageError(
            f"the task {name!r} has no pseudo-labels (its answers have no confidence): train without --unlabelled"
        )
    reader = Reader(type(task), source)
    records = reader.unlabelled(options.unlabelled, task)
    notes += reader.notes()
    return records


def augmentation_settings(options: TrainingOptions, backbone: Backbone) -> AugmentationSettings:
    """Return the settings of augmentation among the training options."""
    return AugmentationSettings(
        augmentations=parse(options.augment),
        copies=options.augment_copies,
        language=options.augment_language,
        synonyms=None if options.synonyms is None else Path(options.synonyms),
        seed=options.seed,
        translate=partial(back_translated, through=options.back_translation, backbone=backbone),
    )
