"""Cross-validation: the training data divided into folds, each held out once (k-fold, by scikit-learn's splitters)."""

import json
import math
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.data.augmentation import augment
from adaptdock.engine.data.holdout import kept_together
from adaptdock.engine.data.sources import load_splits
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.planning.plan import Plan, make_units
from adaptdock.engine.training.planning.shared_data import augmentation_settings
from adaptdock.engine.training.repeats.joint_run import Training, train_in_passes
from adaptdock.errors import AdaptError, DataError
from adaptdock.plugins.contracts import Options, Record
from adaptdock.plugins.task_abilities import class_weights
from adaptdock.plugins.toolkit.stored import joined, picked

FOLDS = "folds.json"


class FoldOptions(Options):
    """Whether settings are tried on folds of the training data first."""

    folds: int | None = Field(None, ge=2)
    """Number of folds: each part of the training data is held out once to test the settings; training follows."""
    folds_only: bool = False
    """Skip the training after the folds."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.folds_only and self.folds is None:
            raise ValueError("folds_only skips the training after the folds, but folds is missing")
        return self


@dataclass(frozen=True)
class Fold:
    """The metrics of one fold's run on its held-out records."""

    number: int
    train: int
    held_out: int
    epochs: float
    metrics: dict[str, Any]
    shortfall: str = ""
    decisive: bool = True
    """Whether the held-out part is large enough to choose an epoch; else the last epoch was measured."""


def divide(plan: Plan, count: int) -> list[Plan]:
    """Return a plan for each fold: trained on the other folds (and altered copies of them), validated on this fold.

    Test data is not used. Validation data counts as training data if it was held out automatically, and is not used
    otherwise. Folds have similar shares of each label if records have one label, and never divide a group of the task.
    All folds share the label names that the task learnt from the training data. Raises :class:`DataError` for too few
    records.
    """
    records = plan.given
    if plan.held_out:
        raw, _ = load_splits(plan.source, type(plan.task), plan.division_seed)
        records = plan.task.clean(joined(raw["train"], raw["validation"]), "train").records
    return [
        planned(plan, picked(records, train), picked(records, held)) for train, held in _numbers(plan, records, count)
    ]


def planned(plan: Plan, train_records: Sequence[Record], held_out: Sequence[Record]) -> Plan:
    """Return a plan that trains on records, and altered copies of them, and validates on others."""
    augmented = augment(train_records, plan.task, augmentation_settings(plan.options, plan.backbone))
    fold_records = {"train": joined(train_records, augmented.records), "validation": held_out}
    silent = plan.options.model_copy(update={"report_to": ()})  # a tracker would mix the curves of folds and run
    fold_plan = replace(plan, records=fold_records, options=silent, added=augmented.added, units=[])
    fold_plan.units = make_units(fold_plan)
    if not fold_plan.units:
        raise DataError("the training data of a fold has no labelled token: use fewer folds")
    return fold_plan


def _numbers(plan: Plan, records: Sequence[Record], count: int) -> list[tuple[list[int], list[int]]]:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    labels, groups = labels_of(plan, records), _groups(plan, records, count)
    alone = len(set(groups)) == len(records)
    if len(set(groups)) < count:
        raise DataError(
            f"{count} folds of {len(set(groups))} training records (a group counts as one): that is too few"
        )
    if labels is not None and max(Counter(labels).values()) < count:
        labels = None  # no label has a record for each fold
    kinds = (KFold, GroupKFold) if labels is None else (StratifiedKFold, StratifiedGroupKFold)
    splitter = kinds[not alone](count, shuffle=True, random_state=plan.division_seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of labels with fewer records than folds
        return [(list(train), list(held)) for train, held in splitter.split(records, labels, None if alone else groups)]


def labels_of(plan: Plan, records: Sequence[Record]) -> list[str] | None:
    """Return the label of each record, or None unless the task has classes and each record has one of them."""
    labels = [record.get("label") for record in records]
    if not all(isinstance(label, str) for label in labels) or class_weights(plan.task, records) is None:
        return None
    return [str(label) for label in labels]


def _groups(plan: Plan, records: Sequence[Record], count: int) -> list[int]:
    """Return a group number for each record.

    Duplicates share a number unless that leaves fewer than ``count`` groups.
    """
    together, groups, _ = kept_together(records, plan.task)
    grouping = together if len(together) >= count else groups
    number_of = {place: number for number, group in enumerate(grouping) for place in group}
    return [number_of[place] for place in range(len(records))]


def cross_validate(
    plan: Plan, count: int, folder: Path, progress: Callable[[int], Callable[[Progress], None] | None]
) -> list[Fold]:
    """Train once for each fold, in ``folder / fold-N``, and write the metrics to ``folder / folds.json``.

    Folds are members of one pass, or of several where memory is too small. ``progress`` maps the number of a fold to
    its progress callback. Ctrl-C raises :class:`KeyboardInterrupt`.
    """
    check_alone("training on folds")
    plans = {str(number): fold_plan for number, fold_plan in enumerate(divide(plan, count), 1)}
    trainings = {number: Training(fold_plan, folder / f"fold-{number}") for number, fold_plan in plans.items()}
    callbacks = {number: progress(int(number)) for number in plans}

    def hear(validated: Mapping[str, Progress]) -> tuple[str, ...]:
        for number, newest in validated.items():
            callback = callbacks[number]
            if callback is not None:
                callback(newest)
        return ()

    folds = []
    for number, result in train_in_passes(trainings, folder / "fold-pass", hear).items():
        if isinstance(result, AdaptError):
            raise result
        if result.ending == "interrupted":
            raise KeyboardInterrupt
        fold_plan = plans[number]
        sizes = len(fold_plan.records["train"]), len(fold_plan.records["validation"])
        metrics = dict(result.adapter.card.metrics["validation"])
        folds.append(Fold(int(number), *sizes, result.epochs, metrics, result.shortfall, fold_plan.criterion.decisive))
    document = {**summary(folds), "folds": [asdict(fold) for fold in folds]}
    (folder / FOLDS).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return folds


def summary(folds: Sequence[Fold]) -> dict[str, Mapping[str, float]]:
    """Return the mean of each metric over the folds, and its standard deviation (of a sample)."""
    names = [name for name, value in folds[0].metrics.items() if isinstance(value, int | float)]
    values = {name: [float(fold.metrics.get(name, math.nan)) for fold in folds] for name in names}
    return {
        "mean": {name: round(statistics.fmean(scores), 4) for name, scores in values.items()},
        "deviation": {name: round(statistics.stdev(scores), 4) for name, scores in values.items()},
    }
