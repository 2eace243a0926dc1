"""Metrics of class labels: scikit-learn's in percent, the calibration error, and the best temperature."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

BINS = 15
OUT_OF_SCOPE = ""
"""The answer of a rejected text in the metrics; it is not a class."""


def percent(share: float) -> float:
    """Return a share in percent, with two digits."""
    return round(100 * float(share), 2)


def best_temperature(loss: Any) -> float:
    """Return the temperature of the least loss."""
    from scipy.optimize import minimize_scalar

    # The logarithm keeps the temperature positive; the bounds are about 0.05 and 20.
    minimum = minimize_scalar(lambda power: loss(math.exp(power)), bounds=(-3, 3), method="bounded")
    return math.exp(float(minimum.x))


def score_classes(labels: Sequence[str], gold: Sequence[str], predicted: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, macro F1 and MCC, and the figures of each class."""
    from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_recall_fscore_support

    occurring = {*gold, *predicted} - {OUT_OF_SCOPE}
    classes = [*labels, *sorted(occurring - {*labels})]
    # one call, whose checks take longer than the figures: for macro F1 too, the mean over the classes that occur
    rows = precision_recall_fscore_support(gold, predicted, labels=classes, zero_division=0)
    scores = [f1 for name, f1 in zip(classes, rows[2], strict=True) if name in occurring]
    return {
        "accuracy": percent(accuracy_score(gold, predicted)),
        "macro_f1": percent(sum(scores) / len(scores)) if scores else 0.0,
        "mcc": percent(matthews_corrcoef(gold, predicted)) if len({*gold, *predicted}) > 1 else 0.0,
        "by_class": _by_class(labels, [row[: len(labels)] for row in rows]),
    }


def score_sets(
    labels: Sequence[str], records: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return accuracy, micro and macro F1 of sets of labels, and the figures of each class."""
    from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

    gold = [[int(name in record["label"]) for name in labels] for record in records]
    predicted = [[int(name in prediction["labels"]) for name in labels] for prediction in predictions]
    return {
        "accuracy": percent(accuracy_score(gold, predicted)),
        "micro_f1": percent(f1_score(gold, predicted, average="micro", zero_division=0)),
        "macro_f1": percent(f1_score(gold, predicted, average="macro", zero_division=0)),
        "by_class": _by_class(labels, precision_recall_fscore_support(gold, predicted, zero_division=0)),
    }


def _by_class(labels: Sequence[str], rows: Any) -> dict[str, dict[str, float | int]]:
    return {
        name: {"precision": percent(p), "recall": percent(r), "f1": percent(f), "support": int(support)}
        for name, p, r, f, support in zip(labels, *rows, strict=True)
    }


def calibration_error(gold: Sequence[str], predictions: Sequence[Mapping[str, Any]]) -> float:
    """Return the expected calibration error in percent: the mean gap between score and accuracy over 15 bins.

    Texts out of scope are left out.
    """
    gaps, count = [0.0] * BINS, 0
    for want, prediction in zip(gold, predictions, strict=True):
        if want != OUT_OF_SCOPE:
            score, best = prediction["score"], next(iter(prediction["scores"]))
            gaps[min(BINS - 1, int(score * BINS))] += score - (want == best)  # sums weight each bin by its size
            count += 1
    return percent(sum(map(abs, gaps)) / count) if count else 0.0
