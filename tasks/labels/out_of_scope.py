"""Texts that belong to no class: found in validation and test data, separated by scores, measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from adaptdock.plugins.contracts import Record
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.labels.class_labels import is_missing
from adaptdock.tasks.labels.class_metrics import percent
from adaptdock.tasks.labels.label_survey import LabelSurvey

OUT_OF_SCOPE_NAME = "out of scope"
FLAG = "out_of_scope"
"""The field of a cleaned record that is out of scope; its label is None."""
KEPT = 95.0
"""Percent of the texts in scope that are kept where ``out_of_scope_recall`` is measured."""
SHOWN = 5


def is_out_of_scope(record: Record, name: str = "") -> bool:
    """Return whether a cleaned record is out of scope; a raw one, if its label is ``name`` or missing."""
    if record.get(FLAG):
        return True
    return bool(name) and (is_missing(record.get("label")) or str(record.get("label")).strip() == name)


def in_scope(records: Sequence[Record]) -> Sequence[Record]:
    """Return the cleaned records that have a class."""
    if not any(map(is_out_of_scope, records)):
        return records
    return stored(record for record in records if not is_out_of_scope(record))


def scoped(records: Sequence[Record], survey: LabelSurvey, split: str, name: str) -> tuple[Sequence[Record], list[str]]:
    """Return raw records with those out of scope marked, and a note on them; training data loses them.

    Their label is ``name``, or missing where others have a label. Without a name, only null in validation and test
    data is out of scope. ``survey`` is that of the records.
    """
    has_labels = survey.missing < survey.total

    def is_outside(record: Record) -> bool:
        if name:
            return is_out_of_scope(record, name) and (has_labels or not is_missing(record.get("label")))
        return split != "train" and has_labels and record.get("label") is None

    if not any(is_outside({"label": label}) for label in survey):
        return records, []
    places = [str(record.get("where", split)) for record in records if is_outside(record)]
    shown = ", ".join(places[:SHOWN]) + (", ..." if len(places) > SHOWN else "")
    why = f"the label {name!r} or none" if name else "no label (null)"
    if split == "train":
        note = f"{split}: {len(places)} texts are out of scope ({why}) and are not trained on: {shown}"
        return stored(record for record in records if not is_outside(record)), [note]
    marked = stored({**record, "label": None, FLAG: True} if is_outside(record) else record for record in records)
    return marked, [f"{split}: {len(places)} texts are out of scope ({why}): {shown}"]


def best_threshold(scores: Sequence[float], outside: Sequence[bool], lowest: float = 0.0) -> float:
    """Return the score below which a text is rejected: the greatest sum of kept and rejected shares (Youden 1950).

    ``outside`` says which texts are out of scope; there are texts of both kinds. Of equal thresholds the lowest is
    returned, midway between two scores; ``lowest`` if none is better than to reject nothing.
    """
    pairs = sorted(zip(scores, outside, strict=True))
    total_outside = sum(outside)
    total_inside = len(pairs) - total_outside
    best, threshold = 0.0, lowest
    lost = rejected = 0
    for (score, is_outside), following in zip(pairs, [*pairs[1:], (1.0, False)], strict=True):
        rejected, lost = rejected + is_outside, lost + (not is_outside)
        worth = rejected / total_outside - lost / total_inside
        if following[0] > score and worth > best:
            best, threshold = worth, (score + following[0]) / 2
    return min(threshold, 1 - 1e-9)


def scope_metrics(records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how well scores separate texts out of scope from others, in percent; empty without texts of both kinds.

    ``out_of_scope_auroc`` is the area under the ROC curve. ``out_of_scope_recall`` is the share of rejected texts out
    of scope at the threshold that keeps 95 % of the others. ``accuracy_in_scope`` is the accuracy of the others, where
    a rejected text is wrong.
    """
    import numpy as np
    from sklearn.metrics import roc_auc_score

    outside = np.array([is_out_of_scope(record) for record in records])
    if outside.all() or not outside.any():
        return {}
    scores = np.array([prediction.get("similarity", prediction["score"]) for prediction in predictions])
    threshold = np.percentile(scores[~outside], 100 - KEPT, method="lower")
    right = [
        record["label"] == prediction["label"]
        for record, prediction in zip(records, predictions, strict=True)
        if not is_out_of_scope(record)
    ]
    return {
        "accuracy_in_scope": percent(np.mean(right)),
        "out_of_scope_auroc": percent(roc_auc_score(~outside, scores)),
        "out_of_scope_recall": percent((scores[outside] < threshold).mean()),
    }
