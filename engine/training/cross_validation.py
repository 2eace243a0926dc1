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
from adaptdock.engine.data.sources import NOT_GIVEN, load_splits
from adaptdock.engine.training.plan import Plan, augmentation_settings, make_units
from adaptdock.engine.training.progress import Progress
from adaptdock.engine.training.run import train_plan
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Options, Record
from adaptdock.plugins.task_abilities import class_weights

FOLDS = "folds.json"


class FoldOptions(Options):
    """Whether settings are tried on folds of the training data first."""

    folds: int | None = Field(None, ge=2)
    """First try the settings so many times, with as many parts of the training data held out in turn; then train."""
    folds_only: bool = False
    """Do not train after that."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.folds_only and self.folds is None:
            raise ValueError("folds_only says that nothing is trained after the folds, but folds is missing")
        return self


@dataclass(frozen=True)
class Fold:
    """What one fold's run has found on the records that it was not trained on."""

    number: int
    train: int
    held_out: int
    epochs: float
    metrics: dict[str, Any]
    shortfall: str = ""
    decisive: bool = True
    """Whether the part held out could tell which epoch is best; else the last one was measured."""


def divide(plan: Plan, count: int) -> list[Plan]:
    """Return a plan for each fold: trained on the others (and altered copies of those), validated on it.

    Test data stays out. Validation data that was held out of the training data belongs to it; such as was given
    does not. Folds have like shares of each label where a record has one label, and keep together what the task
    says belongs together. What the task has learnt from the training data (the label names) holds in all folds.
    Raises :class:`DataError` where there is too little for so many folds.
    """
    records = plan.given
    if any(line.startswith(NOT_GIVEN) for line in plan.notes):
        raw, _ = load_splits(plan.source, type(plan.task), plan.options.seed)
        records = plan.task.clean([*raw["train"], *raw["validation"]], "train").records
    return [_planned(plan, records, *numbers) for numbers in _numbers(plan, records, count)]


def _planned(plan: Plan, records: Sequence[Record], train: Sequence[int], held: Sequence[int]) -> Plan:
    given = [records[number] for number in train]
    augmented = augment(given, plan.task, augmentation_settings(plan.options, plan.backbone))
    own = {"train": [*given, *augmented.records], "validation": [records[number] for number in held]}
    made = replace(plan, records=own, added=augmented.added, units=[])
    made.units = make_units(made)
    if not made.units:
        raise DataError("the training data of a fold has nothing that is labelled: make do with fewer folds")
    return made


def _numbers(plan: Plan, records: Sequence[Record], count: int) -> list[tuple[list[int], list[int]]]:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    labels, groups = _labels(plan, records), _groups(plan, records, count)
    alone = len(set(groups)) == len(records)
    if len(set(groups)) < count:
        raise DataError(f"{count} folds of {len(set(groups))} training records that stand alone: that is too few")
    if labels is not None and max(Counter(labels).values()) < count:
        labels = None  # no label has a record for each fold
    kinds = (KFold, GroupKFold) if labels is None else (StratifiedKFold, StratifiedGroupKFold)
    splitter = kinds[not alone](count, shuffle=True, random_state=plan.options.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of labels with fewer records than folds
        return [(list(train), list(held)) for train, held in splitter.split(records, labels, None if alone else groups)]


def _labels(plan: Plan, records: Sequence[Record]) -> list[str] | None:
    """Return the label of each record, where the task has classes and a record one of them."""
    found = [record.get("label") for record in records]
    if not all(isinstance(label, str) for label in found) or class_weights(plan.task, records) is None:
        return None
    return [str(label) for label in found]


def _groups(plan: Plan, records: Sequence[Record], count: int) -> list[int]:
    """Return a number for each record, the same for records that stay together; duplicates do if there are enough."""
    together, groups = kept_together(records, plan.task)
    grouping = together if len(together) >= count else groups
    number_of = {place: number for number, group in enumerate(grouping) for place in group}
    return [number_of[place] for place in range(len(records))]


def cross_validate(
    plan: Plan, count: int, folder: Path, progress: Callable[[int], Callable[[Progress], None] | None]
) -> list[Fold]:
    """Train once for each fold, in ``folder / fold-N``, and write what was found to ``folder / folds.json``.

    ``progress`` gives what hears of a fold's training. Ctrl-C ends it all with :class:`KeyboardInterrupt`.
    """
    check_alone("training on folds")
    found = []
    for number, own in enumerate(divide(plan, count), 1):
        result = train_plan(own, folder / f"fold-{number}", progress=progress(number))
        if result.ending == "interrupted":
            raise KeyboardInterrupt
        sizes = len(own.records["train"]), len(own.records["validation"])
        metrics = dict(result.adapter.card.metrics["validation"])
        found.append(Fold(number, *sizes, result.epochs, metrics, result.shortfall, own.criterion.decisive))
    document = {**summary(found), "folds": [asdict(fold) for fold in found]}
    (folder / FOLDS).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return found


def summary(folds: Sequence[Fold]) -> dict[str, Mapping[str, float]]:
    """Return the mean of each metric over the folds, and its standard deviation (of a sample)."""
    names = [name for name, value in folds[0].metrics.items() if isinstance(value, int | float)]
    values = {name: [float(fold.metrics.get(name, math.nan)) for fold in folds] for name in names}
    return {
        "mean": {name: round(statistics.fmean(found), 4) for name, found in values.items()},
        "deviation": {name: round(statistics.stdev(found), 4) for name, found in values.items()},
    }
