"""Label errors by confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068).

Each example gets the class probabilities of a head that was fitted on the other folds. The threshold of a class is the
mean probability of that class over the examples with its label. An example counts in the confident joint for its label
and the most probable class among those whose probability reaches their threshold. Off the diagonal it is suspect if
that class is more probable than its label.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from adaptdock.engine.data.checks import text_of
from adaptdock.plugins.contracts import Feature, FitExamples, FittedHead, LabelChecked, Record, Task

FOLDS = 5
STRENGTH = 10.0
"""Inverse regularisation (C) of the heads."""
CONTEXT = 60

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Suspect:
    """An example whose label may be wrong: its number, its class, and the class that the other examples suggest."""

    number: int
    label: int
    suggestion: int
    label_probability: float
    suggestion_probability: float


def suspects(probabilities: Array, labels: Array) -> list[Suspect]:
    """Return the suspect examples off the diagonal of the confident joint, the most suspect first.

    ``probabilities`` (N, classes) are of models that have not seen the example; ``labels`` (N) are below the number of
    classes. Examples of the greatest difference between the two probabilities come first.
    """
    classes = probabilities.shape[1]
    occurring = np.bincount(labels, minlength=classes) > 0
    thresholds = np.array(
        [probabilities[labels == number, number].mean() if occurring[number] else np.inf for number in range(classes)]
    )
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggestions = confident.argmax(1)
    numbers = np.arange(len(labels))
    differences = probabilities[numbers, suggestions] - probabilities[numbers, labels]
    rows = np.flatnonzero((confident.max(1) >= 0) & (differences > 0))
    return [
        Suspect(
            int(row),
            int(labels[row]),
            int(suggestions[row]),
            float(probabilities[row, labels[row]]),
            float(probabilities[row, suggestions[row]]),
        )
        for row in rows[np.argsort(-differences[rows], kind="stable")]
    ]


def out_of_fold(task: FittedHead, examples: FitExamples, classes: int) -> Array | None:
    """Return the probabilities (N, classes) of each example by a head that was fitted on the other folds.

    None where a fold allows no fit, such as too few groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels, groups = examples.labels.numpy(), np.asarray(examples.groups)
    count = min(FOLDS, len(np.unique(groups)))
    if count < 2:
        return None
    probabilities = np.zeros((len(labels), classes))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=examples.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels with fewer groups than folds
        folds = list(splitter.split(labels, labels, groups))
    for train, held_out in folds:
        part = FitExamples(examples.vectors[train], examples.labels[train], groups[train].tolist(), seed=examples.seed)
        head: Mapping[str, Any] | None = task.fit_head(part, STRENGTH)
        if head is None:
            return None
        logits = examples.vectors[held_out] @ head["weight"].T + head["bias"]
        probabilities[held_out] = logits.double().softmax(-1).numpy()
    return probabilities


@dataclass(frozen=True)
class LabelError:
    """A label that may be wrong: its place and text, and both classes with their probabilities by the other records.

    ``context`` is the text around a word; it is empty where the whole text has the label.
    """

    place: str
    text: str
    label: str
    suggestion: str
    label_probability: float
    suggestion_probability: float
    context: str = ""


@dataclass(frozen=True)
class LabelledVectors:
    """The vectors (N, W) that a linear head reads, their classes (N), and the record, window and position of each.

    The numbers of records are those in ``records``.
    """

    records: Sequence[Record]
    vectors: Tensor
    labels: Tensor
    sources: Sequence[tuple[int, Feature, int]]


def label_errors(task: Task, read: LabelledVectors, seed: int) -> list[LabelError] | None:
    """Return the labels that may be wrong, the most suspect first; None where there are too few records for folds.

    A record's first window speaks for it. The task is fitted, :class:`LabelChecked` and :class:`FittedHead`.
    """
    assert isinstance(task, LabelChecked)
    assert isinstance(task, FittedHead)
    texts = groups_of([text_of(record, task) for record in read.records])
    groups = [texts[number] for number, _, _ in read.sources]
    names = task.class_names
    probabilities = out_of_fold(task, FitExamples(read.vectors, read.labels, groups, seed=seed), len(names))
    if probabilities is None:
        return None
    errors: dict[tuple[str, str, int], LabelError] = {}
    for suspect in suspects(probabilities, read.labels.numpy()):
        number, feature, position = read.sources[suspect.number]
        record = read.records[number]
        place, text = str(record.get("where", "?")), task.labelled_part(record, feature, position)
        classes = names[suspect.label], names[suspect.suggestion]
        probabilities_of = suspect.label_probability, suspect.suggestion_probability
        error = LabelError(place, text, *classes, *probabilities_of, _context(text, " ".join(text_of(record, task))))
        errors.setdefault((place, text, position), error)
    return list(errors.values())


def _context(part: str, whole: str) -> str:
    """Return a text around its part, with :data:`CONTEXT` characters on each side; nothing where both are the same."""
    if part == whole:
        return ""
    start = max(0, whole.find(part))
    first, last = max(0, start - CONTEXT), start + len(part) + CONTEXT
    return f"{'…' if first else ''}{whole[first:last]}{'…' if last < len(whole) else ''}"


def groups_of(texts: Sequence[Any]) -> list[int]:
    """Return a number for each text, the same for equal texts: a copy in another fold would hide a wrong label."""
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(text, len(numbers)) for text in texts]
