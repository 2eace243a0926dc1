"""Training on shares of the data: how the metric grows with the number of labels (``adapt train --curve``)."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
from pydantic import model_validator

from adaptdock.engine.core.distributed import check_alone
from adaptdock.engine.evaluation.label_curve import LabelCurve, LabelPoint
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.engine.training.repeats.cross_validation import divide, labels_of, planned
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Options, Record
from adaptdock.plugins.toolkit.stored import picked

FOLDS = 4
FEWEST = 2
"""Fewest training records of a share."""


class CurveOptions(Options):
    """Whether the metric is measured on shares of the training data first."""

    curve: tuple[float, ...] = ()
    """Shares of the training data in percent, such as 25,50,75,100: train on each in 4 folds, and say what twice the
    labels would give; training follows."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.curve and (len(set(self.curve)) < 2 or not all(0 < share <= 100 for share in self.curve)):
            raise ValueError("curve has at least two shares in percent, such as 25,50,75,100")
        return self


def label_curve(
    plan: Plan,
    shares: Sequence[float],
    folder: Path,
    progress: Callable[[int, float], Callable[[Progress], None] | None],
) -> LabelCurve:
    """Train on each share of the other folds, in ``folder / curve``, and write the curve into ``folder``.

    A larger share has the records of a smaller one, and all shares have similar shares of each label. ``progress`` maps
    the number of a fold and a share to a progress callback. Ctrl-C raises :class:`KeyboardInterrupt`.
    """
    check_alone("training on shares")
    points = []
    fold_plans = divide(plan, FOLDS)
    for number, fold_plan in enumerate(fold_plans, 1):
        records = fold_plan.given
        order = _order(plan, records)
        for share in sorted(set(shares)):
            count = round(len(records) * share / 100)
            if count < FEWEST:
                raise DataError(f"{share:g} % of the {len(records)} records of a fold is too few to train on")
            part = picked(records, order[:count])
            share_plan = planned(fold_plan, part, fold_plan.records["validation"])
            result = train_plan(
                share_plan, folder / "curve" / f"fold-{number}-{share:g}", progress=progress(number, share)
            )
            if result.ending == "interrupted":
                raise KeyboardInterrupt
            metric = type(plan.task).metric
            value = float(result.adapter.card.metrics["validation"][metric])
            if not math.isfinite(value):
                raise DataError(f"fold {number}: the {metric} on {count} records is not a number")
            points.append(LabelPoint(number, count, value))
    whole = len(fold_plans[0].given) + len(fold_plans[0].records["validation"])
    kind = type(plan.task)
    curve = LabelCurve(kind.metric, kind.lower_is_better, whole, tuple(points))
    curve.save(folder)
    return curve


def _order(plan: Plan, records: Sequence[Record]) -> list[int]:
    """Return an order of records whose beginnings have similar shares of each label."""
    generator = torch.Generator().manual_seed(plan.division_seed)
    shuffled = torch.randperm(len(records), generator=generator).tolist()
    labels = labels_of(plan, records)
    if labels is None:
        return shuffled
    totals, seen = Counter(labels), Counter[str]()
    quantiles = {}
    for place in shuffled:
        quantiles[place] = seen[labels[place]] / totals[labels[place]]
        seen[labels[place]] += 1
    return sorted(shuffled, key=quantiles.__getitem__)
