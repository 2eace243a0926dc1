"""Spans of words that may overlap and contain each other: every span up to a length is scored for every label.

A span has a label if its probability reaches the threshold; spans of the same words may have several labels. Where the
training data has no overlapping spans, the most probable of overlapping ones is predicted alone (``overlap``). The
head is described in ``plugins/toolkit/span_scorer.py``.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import (
    AnnotatedText,
    AnswerKind,
    Cleaned,
    Decision,
    Feature,
    FitExamples,
    LabelledSpan,
    Labels,
    Outcome,
    Reading,
    Record,
)
from adaptdock.plugins.toolkit.linear_fit import fit_sets
from adaptdock.plugins.toolkit.span_scorer import RARE, SPARSENESS, SpanScorer, span_targets
from adaptdock.plugins.toolkit.stored import in_sequence, joined, stored
from adaptdock.plugins.toolkit.windowing import word_windows
from adaptdock.tasks.common.outcomes import layered_entity_outcome
from adaptdock.tasks.common.overlaps import Extent, bracketed, kind_of_overlap, without_overlaps
from adaptdock.tasks.ner import RECIPES, Scheme, detect_scheme, entity_spans, to_bio
from adaptdock.tasks.tagging.divided_words import WordOptions, WordTask, text_of
from adaptdock.tasks.tagging.marked_texts import MARKS, marked_record, ranged_words
from adaptdock.tasks.tagging.sentence_columns import entity_column, token_column
from adaptdock.tasks.tagging.span_windows import SpanWindow, span_windows
from adaptdock.tasks.tagging.tag_notation import as_written
from adaptdock.tasks.tagging.tag_numbers import with_names
from adaptdock.tasks.tagging.word_ranges import (
    INNER,
    RANGES,
    WordEnds,
    are_tags,
    each_tagged,
    labels_in,
    with_ranges,
)
from adaptdock.tasks.tagging.word_tagging import read_sentences

LONGEST = 12
"""Most words of a span where the training data decides."""
THRESHOLD = 0.5
"""The threshold without validation data to learn it from."""

Scored = tuple[Extent, float]
"""A span of words with its probability."""


class SpanOptions(WordOptions):
    """Options of ``spans``."""

    labels: Labels = ()
    """Labels of spans; learnt from the training data unless given."""
    span_words: int = Field(0, ge=0)
    """Most words of a span; 0 takes the longest span of the training data, up to 12 words."""
    overlap: Literal["auto", "none", "nested", "any"] = "auto"
    """Predicted spans that may overlap: none, those within each other, or any; auto learns it from the data."""
    threshold: float | None = Field(None, ge=RARE, lt=1)
    """Lowest probability of a predicted span; learnt from the validation data unless given."""
    units: int = Field(128, gt=0)
    """Hidden units of the head."""
    word_ends: WordEnds = "auto"
    """Second number of a span of words: its last word (inclusive), or the word behind it (exclusive)."""
    scheme: Scheme = "auto"
    """Tag scheme, where the data has tags; auto detects it for each split."""
    tag_names: tuple[str, ...] = ()
    """Names of tags that the data has as numbers, for 0, 1 and so on: O,B-PER,I-PER."""


class Spans(WordTask):
    """Finds labelled spans of words, which may overlap."""

    Options = SpanOptions
    options: SpanOptions
    columns = {
        "tokens": ("tokens", "words", "tokenized_text", "token", "word", "form", "0"),
        RANGES: ("ranges", "ner", "entities", "spans", "ner_tags", "tags", "tag", "labels", "misc:NER", "-1"),
        INNER: ("inner", "inner_tags", "nested"),
    }
    optional = frozenset({INNER})
    layout = "conll"
    metric = "f1"
    sample = Path(__file__).parent / "samples" / "spans"
    recipes = RECIPES

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.longer = 0
        """After :meth:`fit`, the number of training spans with more words than the head scores."""

    # ------------------------------------------------------------------------------------- data

    @classmethod
    def locate(cls, sentences: Sequence[Sequence[Sequence[str]]]) -> dict[str, int]:
        """Return the columns of words and of tags of entities, of nested ones the outer layer."""
        width = len(sentences[0]) if sentences else 0
        if width < 2:
            return {}
        columns = [[cell for sentence in sentences for cell in sentence[number]] for number in range(width)]
        tags = entity_column(columns)
        located = {"tokens": token_column(sentences, tags), RANGES: tags}
        return {name: column for name, column in located.items() if column is not None}

    @classmethod
    def annotated(cls, text: AnnotatedText) -> Record | None:
        """Return a text with its marked spans, which :meth:`clean` turns into ranges of words."""
        return marked_record(text)

    def labels(self, record: Record) -> list[str]:
        """Return the labels of the spans, or the tags, each once."""
        if MARKS in record:
            return sorted({span.label for span in record[MARKS]})
        return labels_in(record.get(RANGES), str(record.get("where", "a record")))

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Read spans of any form as ranges of words, with exclusive ends; note what was decided."""
        raw = in_sequence(records)
        marked = ranged_words((record for record in raw if MARKS in record), split, self.options.division)
        plain = stored(record for record in raw if MARKS not in record) if marked.records else raw
        if any(are_tags(record.get(RANGES)) for record in plain):
            cleaned = self._from_tags(plain, split)
        else:
            cleaned = with_ranges(plain, split, self.options.word_ends)
        return Cleaned(joined(marked.records, cleaned.records), [*marked.notes, *cleaned.notes])

    def _from_tags(self, records: Sequence[Record], split: str) -> Cleaned:
        """Return records with ranges in place of tags; a second column of tags has spans inside of others."""
        layers = [self._layer(records, column, split) for column in (RANGES, INNER)]

        def ranged() -> Iterator[Record]:
            following = [iter(layer.records) for layer in layers]
            sentences = [next(layer, None) for layer in following]
            for number, record in enumerate(records):
                cleaned, ranges = {name: value for name, value in record.items() if name != INNER}, set()
                for place, sentence in enumerate(sentences):
                    if sentence is not None and sentence["number"] == number:
                        cleaned["tokens"] = sentence["tokens"]
                        ranges.update(sentence[RANGES])
                        sentences[place] = next(following[place], None)
                yield {**cleaned, RANGES: sorted(ranges)}

        return Cleaned(stored(ranged()), [note for layer in layers for note in layer.notes])

    def _layer(self, records: Sequence[Record], column: str, split: str) -> Cleaned:
        """Return the tokens and ranges of the records that have tags in a column, by their ``number``."""
        tagged = (
            {**record, "tags": each_tagged(record[column], str(record.get("where", split))), "number": number}
            for number, record in enumerate(records)
            if record.get(column) is not None
        )
        sentences = read_sentences(with_names(tagged, self.options.tag_names, split), split)
        read, remarks = as_written(sentences.records, split, plain_types=self.options.scheme == "io")
        scheme = self.options.scheme
        if scheme == "auto":
            scheme = detect_scheme(record["tags"] for record in read)
        repaired = 0

        def ranged(record: Record) -> Record:
            nonlocal repaired
            tags, mended = to_bio(record["tags"], scheme, str(record.get("where", split)))
            repaired += mended
            ranges = [(first, end, label) for label, first, end in entity_spans(tags)]
            return {"number": record["number"], "tokens": record["tokens"], RANGES: ranges}

        layer = stored(map(ranged, read))
        notes = [*sentences.notes, *remarks]
        notes += [f"{split}: tags of {column} read as {scheme.upper()}"] if scheme != "bio" else []
        if repaired:
            notes.append(f"{split}: {repaired} tags of {column} repaired that no {scheme.upper()} sequence can have")
        return Cleaned(layer, notes)

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn the labels, the longest span, the kind of overlap, and the division into words."""
        labels = self.options.labels or tuple(sorted({label for record in records for _, _, label in record[RANGES]}))
        if not labels:
            raise DataError("the training data has no labelled span. --columns ranges=COLUMN names another column")
        lengths = Counter(end - first for record in records for first, end, _ in record[RANGES])
        longest = max(lengths, default=1)
        learnt = {
            "labels": labels,
            "span_words": self.options.span_words or min(longest, LONGEST),
            "overlap": self.options.overlap if self.options.overlap != "auto" else _overlap(records),
            "division": self.learnt_division(records),
        }
        fitted = type(self)(self.options.model_copy(update=learnt))
        fitted.check(records, "train")
        fitted.longer = sum(count for length, count in lengths.items() if length > fitted.options.span_words)
        return fitted

    def notes(self) -> list[str]:
        """Return notes on the division into words, and on spans that are too long to be predicted."""
        overlap = {"none": "do not overlap", "nested": "may be inside others", "any": "may overlap"}
        most = self.options.span_words
        notes = [f"spans of up to {most} words are scored, and predicted spans {overlap[self.options.overlap]}"]
        if self.longer:
            notes.append(
                f"{self.longer} training spans have more than {most} words and are neither learnt nor predicted "
                f"(--span-words)"
            )
        return [*super().notes(), *notes]

    def check(self, records: Sequence[Record], split: str) -> None:
        """Refuse a label that training has not seen."""
        for record in records:
            unknown = next((label for _, _, label in record[RANGES] if label not in self.options.labels), None)
            if unknown is not None:
                raise DataError(
                    f"{record.get('where', split)}: the label {unknown!r} occurs in {split}, but neither in the "
                    f"training data nor in the options: {', '.join(self.options.labels)}"
                )

    def unknown(self, records: Sequence[Record]) -> Counter[str]:
        """Count the spans of labels that training has not seen; :meth:`score` counts them as missed."""
        labels = (label for record in records for _, _, label in record[RANGES])
        return Counter(label for label in labels if label not in self.options.labels)

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count sentences, tokens, spans by label, and spans that overlap with others."""
        spans = Counter(label for record in records for _, _, label in record[RANGES])
        return {
            "sentences": len(records),
            "tokens": sum(len(record["tokens"]) for record in records),
            "spans": dict(sorted(spans.items())),
            "overlapping": sum(len(_overlapping(_extents(record))) for record in records),
        }

    # ------------------------------------------------------------------------------------ model

    def head(self) -> SpanScorer:
        """Return a score for each span and label."""
        return SpanScorer(len(self.options.labels), self.options.span_words, self.options.units)

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise the sentence in overlapping windows; a causal model reads each word at its last token."""
        text, places = self.read_text(record)
        features = [feature for feature in word_windows(text, places, reading) if feature.alignment]
        for feature, window in zip(features, span_windows(features, self.options.span_words), strict=True):
            _, firsts, lasts = zip(*feature.alignment, strict=True)
            feature.row_inputs = {"firsts": list(lasts if reading.causal else firsts), "lasts": list(lasts)}
            feature.alignment = window
            if labelled:
                feature.labels = [len(window.words), *self._numbers(record, window.words)]
        return features

    def _numbers(self, record: Record, words: Sequence[int]) -> list[int]:
        """Return place of the first word, words less one, and number of the label, of each span in a window."""
        places = {word: place for place, word in enumerate(words)}
        numbers = []
        for first, end, label in record[RANGES]:
            if first in places and end - 1 in places and label in self.options.labels:
                more = places[end - 1] - places[first]
                if more < self.options.span_words:
                    numbers += [places[first], more, self.options.labels.index(label)]
        return numbers

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the binary cross entropy of all spans and labels, its sum divided by the number of words.

        ``logits`` (R, N, K, C); ``labels`` (R, 1 + 3 S) has the number of words, and three numbers for each span.
        """
        _, most, lengths, classes = logits.shape
        words, targets = labels[:, 0], span_targets(labels, (most, lengths, classes))
        ends = torch.arange(most, device=logits.device).unsqueeze(1) + torch.arange(lengths, device=logits.device)
        inside = (ends < words[:, None, None]).unsqueeze(-1)  # (R, N, K, 1)
        losses = functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
        return (losses * inside).sum() / words.sum()

    def fit_head(self, examples: FitExamples, strength: float | None) -> dict[str, Tensor]:
        """Return a logistic regression of each label; its bias makes up for the spans that are no examples."""
        linear = fit_sets(examples, strength)
        return self.head().of_linear(linear["weight"], linear["bias"] - math.log(SPARSENESS), examples.seed)

    def digest(self, feature: Feature, logits: Tensor) -> Tensor:
        """Return (spans, 4) in place of logits (T, K, C): first word, end, label and probability; float64.

        Spans with a probability below 1 % are left out.
        """
        window: SpanWindow = feature.alignment
        count = len(window.words)
        probabilities = logits[:count].float().sigmoid()
        likely = probabilities >= RARE
        rows = []
        for (place, more, label), share in zip(likely.nonzero().tolist(), probabilities[likely].tolist(), strict=True):
            if place + more < count and (place, more) not in window.elsewhere:
                rows.append([window.words[place], window.words[place + more] + 1, label, share])
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)

    def scored(self, digests: Sequence[Tensor]) -> list[Scored]:
        """Return the spans of words with a probability of at least 1 %, the most probable first, without overlaps
        that the options exclude.
        """
        rows = [row for digest in digests for row in digest.tolist()]
        rows.sort(key=lambda row: (-row[3], row[0], row[1]))
        extents = [Extent(int(first), int(end), self.options.labels[int(label)]) for first, end, label, _ in rows]
        remaining = without_overlaps(extents, self.options.overlap if self.options.overlap != "auto" else "any")
        return [(extents[number], rows[number][3]) for number in remaining]

    def settle(self, records: Sequence[Record], digests: Sequence[Sequence[Tensor]]) -> Self:
        """Learn the threshold with the best F1, unless it is given."""
        if self.options.threshold is not None:
            return self
        expected = [set(_extents(record)) for record in records]
        scored = [
            (probability, extent in extents)
            for extents, windows in zip(expected, digests, strict=True)
            for extent, probability in self.scored(windows)
        ]
        threshold = _best_threshold(scored, sum(map(len, expected)))
        return type(self)(self.options.model_copy(update={"threshold": round(threshold, 4)}))

    def _predicted(self, digests: Sequence[Tensor]) -> list[Scored]:
        """Return the predicted spans in the order of the text."""
        threshold = THRESHOLD if self.options.threshold is None else self.options.threshold
        predicted = [span for span in self.scored(digests) if span[1] >= threshold]
        return sorted(predicted, key=lambda span: (span[0].start, -span[0].end, span[0].label))

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the spans with their text, label, character offsets and score."""
        text, places = text_of(record)
        spans = []
        for extent, score in self._predicted(digests):
            start, end = places[extent.start][0], places[extent.end - 1][1]
            entry = {"text": text[start:end], "label": extent.label, "start": start, "end": end}
            spans.append({**entry, "score": round(score, 4)})
        prediction: dict[str, Any] = {"text": text, "spans": spans}
        return prediction if "spans" in record else prediction | {"tokens": record["tokens"]}

    def annotation(self, prediction: Mapping[str, Any]) -> AnnotatedText:
        """Return the text with its spans and words."""
        spans = [LabelledSpan(part["start"], part["end"], part["label"], part["text"]) for part in prediction["spans"]]
        return AnnotatedText(prediction["text"], "", tuple(spans), words=self.words_of(prediction))

    @property
    def answer_kind(self) -> AnswerKind:
        """Labelled spans."""
        return "spans"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels."""
        return self.options.labels

    def margin(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> float:
        """Return the least difference between the probabilities that a span has a label, and that it has not."""
        return min((abs(2 * probability - 1) for _, probability in self.scored(digests)), default=1.0)

    def decisions(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> list[Decision]:
        """Return the predicted spans."""
        places = text_of(record)[1]
        return [
            Decision(extent.label, places[extent.start][0], places[extent.end - 1][1], extent.start, extent.end)
            for extent, _ in self._predicted(digests)
        ]

    def log_probability(
        self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor], decision: Decision
    ) -> float:
        """Return the log-probability of a span and label; at least that of 1 %."""
        label = self.options.labels.index(decision.label)
        wanted = [decision.first, decision.last, label]
        rows = (row for digest in digests for row in digest.tolist() if row[:3] == wanted)
        return math.log(next(rows, [RARE])[-1])

    # ---------------------------------------------------------------------------------- metrics

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return precision, recall and F1 of spans with exact extent and label, in percent, in all and by label.

        ``overlapping`` has the recall of the spans that overlap with another one.
        """
        pairs = [_compared(record, prediction) for record, prediction in zip(records, predictions, strict=True)]
        labels = sorted({*self.options.labels, *(extent.label for expected, _ in pairs for extent in expected)})
        overlapping = [(_overlapping(expected), predicted) for expected, predicted in pairs]
        metrics = _measured(pairs)
        del metrics["support"]
        if any(expected for expected, _ in overlapping):
            nested = _measured([(expected, predicted & expected) for expected, predicted in overlapping])
            metrics["overlapping"] = {"recall": nested["recall"], "support": nested["support"]}
        by_label = {
            label: _measured(
                [(_labelled(expected, label), _labelled(predicted, label)) for expected, predicted in pairs]
            )
            for label in labels
        }
        return {**metrics, "by_label": by_label}

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the number of right, of expected and of predicted spans."""
        expected, predicted = _compared(record, prediction)
        return float(len(expected & predicted)), float(len(expected)), float(len(predicted))

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return F1 in percent; 0 without spans."""
        right, expected, predicted = sums
        return 200 * right / (expected + predicted) if right else 0.0

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare whole spans; overlapping spans are shown in layers."""
        text, _ = text_of(record)
        expected = [(extent.label, extent.start, extent.end) for extent in sorted(_in_text(record))]
        spans = prediction["spans"]
        predicted = [(span["label"], span["start"], span["end"]) for span in spans]
        return layered_entity_outcome(text, expected, predicted, [span["score"] for span in spans])

    def support(self, records: Sequence[Record]) -> int:
        """Return the number of spans."""
        return sum(len(record[RANGES]) for record in records)

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the metrics of no span in any text."""
        return self.score(records, [{"spans": []}] * len(records))

    def shown(self, record: Record) -> str:
        """Return a labelled sentence with its spans marked."""
        return bracketed(text_of(record)[0], sorted(_in_text(record)))

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Mark the spans in the text: ``The [mayor of [Porto|LOC]|ROLE] spoke``."""
        extents = [Extent(span["start"], span["end"], span["label"]) for span in prediction["spans"]]
        return bracketed(prediction["text"], extents)


# ------------------------------------------------------------------------------------------ helpers


def _extents(record: Record) -> list[Extent]:
    """Return the labelled spans of a record, in words."""
    return [Extent(*span) for span in record[RANGES]]


def _in_text(record: Record) -> set[Extent]:
    """Return the labelled spans of a record, in characters of its text."""
    places = text_of(record)[1]
    return {Extent(places[first][0], places[end - 1][1], label) for first, end, label in record[RANGES]}


def _compared(record: Record, prediction: Mapping[str, Any]) -> tuple[set[Extent], set[Extent]]:
    predicted = {Extent(span["start"], span["end"], span["label"]) for span in prediction["spans"]}
    return _in_text(record), predicted


def _overlap(records: Sequence[Record]) -> str:
    kinds = {kind_of_overlap(_extents(record)) for record in records}
    return next((kind for kind in ("any", "nested") if kind in kinds), "none")


def _overlapping(extents: Iterable[Extent]) -> set[Extent]:
    """Return the spans that overlap with another one."""
    ordered = list(extents)
    return {
        extent
        for extent in ordered
        if any(second != extent and extent.start < second.end and second.start < extent.end for second in ordered)
    }


def _labelled(extents: Iterable[Extent], label: str) -> set[Extent]:
    return {extent for extent in extents if extent.label == label}


def _measured(pairs: Sequence[tuple[set[Extent], set[Extent]]]) -> dict[str, Any]:
    """Return F1, precision and recall of predicted spans in percent, and the number of expected ones."""
    right = sum(len(expected & predicted) for expected, predicted in pairs)
    expected, predicted = (sum(map(len, side)) for side in zip(*pairs, strict=True)) if pairs else (0, 0)
    shares = {
        "f1": 2 * right / max(1, expected + predicted),
        "precision": right / max(1, predicted),
        "recall": right / max(1, expected),
    }
    return {**{name: round(100 * share, 2) for name, share in shares.items()}, "support": expected}


def _best_threshold(scored: Sequence[tuple[float, bool]], expected: int) -> float:
    """Return the threshold with the best F1, halfway to the next probability below it; 0.5 if nothing is right."""
    ordered = sorted(scored, reverse=True)
    best, threshold, right = 0.0, THRESHOLD, 0
    for number, (probability, is_right) in enumerate(ordered, 1):
        right += is_right
        following = ordered[number][0] if number < len(ordered) else RARE
        f1 = 2 * right / (expected + number)
        if f1 > best and following < probability:
            best, threshold = f1, (probability + following) / 2
    return max(RARE, threshold)
