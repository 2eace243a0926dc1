"""Outcomes of predictions for reports: labels of texts, entities, tags of words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from adaptdock.plugins.contracts import Mark, Outcome, Passage, Record
from adaptdock.tasks.common.overlaps import Extent, layers

NONE = "(none)"
"""The label in a confusion matrix of an answer that is expected or predicted on one side only."""
OTHER_EXTENT = "(other extent)"
"""The predicted label of an entity that overlaps with a prediction of another extent."""
OUT_OF_SCOPE = "(out of scope)"
FIELDS = ("text", "second")

Entity = tuple[str, int, int]
"""Label, start and end in characters."""


def texts(record: Record) -> list[Passage]:
    """Return the text, or the pair of texts, of a record."""
    return [Passage(name, record[name]) for name in FIELDS if name in record]


def label_outcome(record: Record, prediction: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a text with one label; the surer a wrong answer, the greater its error."""
    expected, predicted = (row["label"] or OUT_OF_SCOPE for row in (record, prediction))
    best = next(iter(prediction["scores"]))
    right = expected == predicted
    passages = [
        *texts(record),
        Passage("expected", _scored(expected, prediction)),
        Passage("predicted", predicted if predicted == OUT_OF_SCOPE else _scored(predicted, prediction)),
    ]
    error = 0.0 if right else 1.0 + prediction["score"]
    return Outcome(error, tuple(passages), ((expected, predicted),), ((prediction["score"], expected == best),))


def label_set_outcome(record: Record, prediction: Mapping[str, Any], threshold: float) -> Outcome:
    """Return the outcome of a text with several labels; the error counts missed and wrong ones, by their distance."""
    expected, predicted = set(record["label"]), set(prediction["labels"])
    scores = prediction["scores"]
    pairs = [
        *((label, label if label in predicted else NONE) for label in sorted(expected)),
        *((NONE, label) for label in sorted(predicted - expected)),
    ]
    error = sum(1.0 + abs(scores.get(label, 0.0) - threshold) for label in expected ^ predicted)
    passages = [
        *texts(record),
        Passage("expected", ", ".join(_scored(label, prediction) for label in sorted(expected)) or NONE),
        Passage("predicted", ", ".join(_scored(label, prediction) for label in sorted(predicted)) or NONE),
    ]
    certainty = tuple((score, label in expected) for label, score in scores.items())
    return Outcome(error, tuple(passages), tuple(pairs), certainty)


def _scored(label: str, prediction: Mapping[str, Any]) -> str:
    score = prediction["scores"].get(label)
    return label if score is None else f"{label} {score:.2f}"


def entity_outcome(
    text: str, expected: Sequence[Entity], predicted: Sequence[Entity], scores: Sequence[float]
) -> Outcome:
    """Return the outcome of a text with entities; the error is the number of missed and wrong entities.

    Entities of the same extent are compared by their labels. ``scores`` are those of the predicted entities.
    """
    label_by_span = {(start, end): label for label, start, end in predicted}
    expected_spans = {(start, end) for _, start, end in expected}
    pairs: list[tuple[str, str]] = []
    for label, start, end in expected:
        overlaps = any(start < last and first < end for _, first, last in predicted)
        pairs.append((label, label_by_span.get((start, end), OTHER_EXTENT if overlaps else NONE)))
    for label, start, end in predicted:
        if not any(start < last and first < end for _, first, last in expected):
            pairs.append((NONE, label))
    right = set(expected) & set(predicted)
    wrong = [score for entity, score in zip(predicted, scores, strict=True) if entity not in right]
    missed = sum((start, end) not in label_by_span for _, start, end in set(expected) - right)
    extra = sum((start, end) not in expected_spans for _, start, end in set(predicted) - right)
    relabelled = len(set(expected) - right) - missed
    error = missed + extra + relabelled + max(wrong, default=0.0) / 2
    passages = (
        Passage("expected", text, _marks(expected, right)),
        Passage("predicted", text, _marks(predicted, right)),
    )
    certainty = tuple((score, entity in right) for entity, score in zip(predicted, scores, strict=True))
    return Outcome(error, passages, tuple(pairs), certainty)


def layered_entity_outcome(
    text: str, expected: Sequence[Entity], predicted: Sequence[Entity], scores: Sequence[float]
) -> Outcome:
    """Return the outcome of a text with spans that may overlap: each side has a passage for each layer of spans."""
    outcome = entity_outcome(text, expected, predicted, scores)
    passages = []
    for passage in outcome.passages:
        extents = [Extent(mark.start, mark.end, mark.label) for mark in passage.marks]
        divided = layers(extents) or [[]]
        for number, layer in enumerate(divided, 1):
            title = passage.title if number == 1 else f"{passage.title}, layer {number}"
            passages.append(Passage(title, text, tuple(passage.marks[place] for place in sorted(layer))))
    return replace(outcome, passages=tuple(passages))


def _marks(entities: Sequence[Entity], right: set[Entity]) -> tuple[Mark, ...]:
    return tuple(Mark(start, end, label, wrong=(label, start, end) not in right) for label, start, end in entities)


def word_outcome(text: str, tags: Sequence[str], words: Sequence[Mapping[str, Any]]) -> Outcome:
    """Return the outcome of a text with a tag for each word; only words with a wrong tag are marked."""
    compared = list(zip(tags, words, strict=True))
    wrong = [(tag, word) for tag, word in compared if tag != word["tag"]]
    passages = (
        Passage("expected", text, tuple(_mark(word, tag) for tag, word in wrong)),
        Passage("predicted", text, tuple(_mark(word, word["tag"]) for _, word in wrong)),
    )
    error = len(wrong) + max((word["score"] for _, word in wrong), default=0.0) / 2
    pairs = tuple((tag, word["tag"]) for tag, word in compared)
    return Outcome(error, passages, pairs, tuple((word["score"], tag == word["tag"]) for tag, word in compared))


def _mark(word: Mapping[str, Any], tag: str) -> Mark:
    return Mark(word["start"], word["end"], tag, wrong=True)
