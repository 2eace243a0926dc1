"""Named entity recognition: one tag per word, entities as spans of the text.

Tags of the schemes BIO, IOB1, BIOES (BILOU), IOE1, IOE2 and IO are converted to BIO. Each word is labelled at one of
its tokens: the first, or the last for a causal backbone. Predicted tag sequences are the most probable legal ones (an
I- follows a B- or I- of its type; Viterbi's algorithm).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from sys import intern
from typing import Any, Literal, Self

import torch
from torch import Tensor

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import (
    AnnotatedText,
    AnswerKind,
    Cleaned,
    Feature,
    LabelledSpan,
    Labels,
    Outcome,
    Recipe,
    Record,
)
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.common.outcomes import entity_outcome
from adaptdock.tasks.labels.uncounted import UNTAGGED, counted, counted_pairs
from adaptdock.tasks.tagging.divided_words import text_of
from adaptdock.tasks.tagging.marked_texts import MARKS, marked_record, tagged_words
from adaptdock.tasks.tagging.sentence_columns import entity_column
from adaptdock.tasks.tagging.tag_notation import NO_TYPES, as_written
from adaptdock.tasks.tagging.tag_numbers import with_names
from adaptdock.tasks.tagging.word_tagging import Tagging, TaggingOptions, read_sentences

Scheme = Literal["auto", "bio", "iob1", "bioes", "ioe", "io"]
STARTS, ENDS, INSIDE = "BSU", "ESLU", "IEML"

TARGET = 600
"""Steps: 300 German sentences reach F1 28.6 in 57 of them (three epochs), 35.4 in 190 (ten; docs/few.md)."""
FEWEST = 200
"""Fewest steps: of 32 English sentences, at the full rate, they reach a higher F1 and accuracy than 50 at half of it
(docs/few.md)."""
SMALL_DATA: dict[str, Any] = {"target_steps": TARGET, "min_steps": FEWEST, "few_labels_rate": 1.0}
RECIPES = {
    "lora": Recipe(
        learning_rate=5e-4,
        epochs=3,
        batch_size=16,
        backbone_dropout=True,
        method_options={"roles": ["all"], "learning_rate_factor_b": 4},
        **SMALL_DATA,
    ),
    "dora": Recipe(
        learning_rate=1e-3,
        epochs=3,
        batch_size=16,
        backbone_dropout=True,
        method_options={"roles": ["all"]},
        **SMALL_DATA,
    ),
    "bottleneck": Recipe(
        learning_rate=2e-3,
        epochs=3,
        batch_size=16,
        method_options={"parallel": True, "activation": "gelu", "reduction_factor": 12},
        **SMALL_DATA,
    ),
    "prefix": Recipe(
        learning_rate=2e-3,
        epochs=3,
        batch_size=16,
        method_options={"length": 32, "learning_rate_factor": 40},
        **SMALL_DATA,
    ),
    "ia3": Recipe(
        learning_rate=1e-3, epochs=3, batch_size=16, method_options={"learning_rate_factor": 30}, **SMALL_DATA
    ),
}


class NEROptions(TaggingOptions):
    """Options of ``ner``."""

    scheme: Scheme = "auto"
    """Tag scheme of the data; auto detects it for each split."""
    labels: Labels = ()
    """Entity types; learnt from the training data unless given."""


class NER(Tagging):
    """Finds and classifies named entities."""

    Options = NEROptions
    options: NEROptions
    columns = {
        "tokens": ("tokens", "words", "token", "form", "0"),
        "tags": ("ner_tags", "tags", "ner", "labels", "entities", "misc:NER", "-1"),
    }
    layout = "conll"
    metric = "f1"
    sample = Path(__file__).parent / "samples" / "ner"
    recipes = RECIPES

    @property
    def tags(self) -> list[str]:
        """The classes of the head: O, then B- and I- of each type."""
        return ["O", *(f"{prefix}-{label}" for label in self.options.labels for prefix in "BI")]

    # ------------------------------------------------------------------------------------- data

    @classmethod
    def column_of_tags(cls, columns: Sequence[Sequence[str]]) -> int | None:
        """Return the column with tags of entities."""
        return entity_column(columns)

    @classmethod
    def annotated(cls, text: AnnotatedText) -> Record | None:
        """Return a text with its marked spans, which :meth:`clean` turns into tags of words."""
        return marked_record(text)

    def labels(self, record: Record) -> list[str]:
        """Return the tags of the words, or the labels of the marked spans, each once."""
        return sorted({span.label for span in record[MARKS]}) if MARKS in record else super().labels(record)

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Convert tags of any scheme to BIO; note the scheme and the number of repaired tags."""
        marked = tagged_words(records, split, self.options.division)
        sentences = read_sentences(with_names(marked.records, self.options.tag_names, split), split)
        records, read = as_written(sentences.records, split, plain_types=self.options.scheme == "io")
        scheme = self.options.scheme
        if scheme == "auto":
            scheme = detect_scheme(counted(record["tags"]) for record in records)
        repaired = 0

        def in_bio(record: Record) -> Record:
            nonlocal repaired
            tags, mended = to_bio(record["tags"], scheme, str(record.get("where", split)))
            repaired += mended
            return {**record, "tags": list(map(intern, tags))}

        converted = stored(map(in_bio, records))
        notes = [*marked.notes, *sentences.notes, *read]
        notes += [f"{split}: tags read as {scheme.upper()}"] if scheme != "bio" else []
        if repaired:
            notes.append(f"{split}: {repaired} tags repaired that no {scheme.upper()} sequence can have")
        return Cleaned(converted, notes)

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn the entity types, sorted by name, unless the options list them."""
        if self.options.labels:
            self.check(records, "train")
            return self.learnt(records, self.options.labels)
        labels = sorted({tag[2:] for record in records for tag in counted(record["tags"]) if tag != "O"})
        if not labels:
            raise DataError(
                "the training data has no entity: every tag is O. --columns tags=COLUMN names another column of tags"
            )
        return self.learnt(records, labels)

    def check(self, records: Sequence[Record], split: str) -> None:
        """Refuse an entity type that training has not seen."""
        types = set(self.options.labels)
        for record in records:
            for tag in counted(record["tags"]):
                if tag != "O" and tag[2:] not in types:
                    raise DataError(
                        f"{record.get('where', split)}: the entity type {tag[2:]!r} occurs in {split}, but neither in "
                        f"the training data nor in the options: {', '.join(sorted(types))}"
                    )

    def unknown(self, records: Sequence[Record]) -> Counter[str]:
        """Count the entities of types that training has not seen; :meth:`score` counts them as missed."""
        types = (tag[2:] for record in records for tag in record["tags"] if tag.startswith("B-"))
        return Counter(name for name in types if name not in self.options.labels)

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count sentences, tokens and entities by type."""
        types = Counter(tag[2:] for record in records for tag in record["tags"] if tag.startswith("B-"))
        tokens = sum(len(record["tokens"]) for record in records)
        return {"sentences": len(records), "tokens": tokens, "entities": dict(sorted(types.items()))}

    def without(self, record: Record, kept: Sequence[int]) -> Record:
        """Leave words out; an entity that loses its first word begins at its next word."""
        tags = list(record["tags"])
        for _, first, last in entity_spans(tags):
            new_first = next((place for place in kept if first <= place < last), None)
            if new_first is not None:
                tags[new_first] = f"B{tags[new_first][1:]}"
        return super().without({**record, "tags": tags}, kept)

    # ------------------------------------------------------------------------------------ model

    def best(self, scores: Tensor) -> list[int]:
        """Return the most probable legal sequence."""
        return best_path(scores.clamp_min(1e-9).log(), self.tags)  # probabilities may underflow to zero

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the entities with their text, label, character offsets and score."""
        text, spans = text_of(record)
        scores = self.scores(len(spans), features, digests)
        tags = [self.tags[number] for number in self.best(scores)]
        entities = []
        for label, first, last in entity_spans(tags):
            word_scores = [scores[word, self.tags.index(tags[word])].item() for word in range(first, last)]
            start, end = spans[first][0], spans[last - 1][1]
            entities.append(
                {
                    "text": text[start:end],
                    "label": label,
                    "start": start,
                    "end": end,
                    "score": round(sum(word_scores) / len(word_scores), 4),
                }
            )
        prediction: dict[str, Any] = {"text": text, "entities": entities}
        is_text = "spans" in record and "tags" not in record  # a labelled record is compared by its tags
        return prediction if is_text else prediction | {"tokens": record["tokens"], "tags": tags}

    def annotation(self, prediction: Mapping[str, Any]) -> AnnotatedText:
        """Return the text with its entities, and the words that were tagged."""
        text = prediction["text"]
        spans = [
            LabelledSpan(part["start"], part["end"], part["label"], part["text"]) for part in prediction["entities"]
        ]
        return AnnotatedText(text, "", tuple(spans), words=self.words_of(prediction))

    @property
    def answer_kind(self) -> AnswerKind:
        """Labelled spans."""
        return "spans"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The types of entities."""
        return self.options.labels

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return precision, recall and F1 of whole entities, in all and by type, in percent (seqeval)."""
        from seqeval.metrics import classification_report

        pairs = [
            counted_pairs(record["tags"], prediction["tags"])
            for record, prediction in zip(records, predictions, strict=True)
        ]
        gold, predicted = [want for want, _ in pairs], [got for _, got in pairs]
        if not any(tag != "O" for tags in [*gold, *predicted] for tag in tags):
            return {"f1": 0.0, "precision": 0.0, "recall": 0.0, "by_type": {}}
        report = classification_report(gold, predicted, output_dict=True, zero_division=0)
        percent = {
            name: {key[:-6] if key == "f1-score" else key: _percent(key, value) for key, value in row.items()}
            for name, row in report.items()
        }
        micro = percent["micro avg"]
        by_type = {name: row for name, row in percent.items() if not name.endswith(" avg")}
        return {"f1": micro["f1"], "precision": micro["precision"], "recall": micro["recall"], "by_type": by_type}

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the number of right, of expected and of predicted entities."""
        expected, predicted = set(entity_spans(record["tags"])), set(entity_spans(prediction["tags"]))
        return float(len(expected & predicted)), float(len(expected)), float(len(predicted))

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return F1 in percent; 0 without entities."""
        right, expected, predicted = sums
        return 200 * right / (expected + predicted) if right else 0.0

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare whole entities."""
        text, spans = text_of(record)
        expected = [(label, spans[first][0], spans[end - 1][1]) for label, first, end in entity_spans(record["tags"])]
        entities = prediction["entities"]
        predicted = [(entity["label"], entity["start"], entity["end"]) for entity in entities]
        return entity_outcome(text, expected, predicted, [entity["score"] for entity in entities])

    def tagged(self, tags: Sequence[str]) -> list[tuple[str, int, int]]:
        """Return the entities."""
        return entity_spans(tags)

    def tags_of(self, label: str, words: int) -> list[str]:
        """Return the tags of the words of an entity."""
        return [f"B-{label}", *[f"I-{label}"] * (words - 1)]

    def support(self, records: Sequence[Record]) -> int:
        """Return the number of entities."""
        return sum(tag.startswith("B-") for record in records for tag in record["tags"])

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the metrics of O for every word."""
        return self.score(records, [{"tags": ["O"] * len(record["tags"])} for record in records])

    def shown(self, record: Record) -> str:
        """Return a labelled sentence with its entities marked."""
        text, spans = text_of(record)
        entities = []
        for label, first, last in entity_spans(record["tags"]):
            start, end = spans[first][0], spans[last - 1][1]
            entities.append({"text": text[start:end], "label": label, "start": start, "end": end})
        return self.render({"text": text, "entities": entities})

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Mark the entities in the text: ``[Ada Lovelace|PER] lived in [London|LOC]``."""
        text, end, parts = prediction["text"], 0, []
        for entity in prediction["entities"]:
            parts += [text[end : entity["start"]], f"[{entity['text']}|{entity['label']}]"]
            end = entity["end"]
        return "".join([*parts, text[end:]])


# -------------------------------------------------------------------------------------- tag schemes


def detect_scheme(sequences: Iterable[Sequence[str]]) -> Literal["bio", "iob1", "bioes", "ioe", "io"]:
    """Detect the scheme of tags; BIO unless a tag contradicts it."""
    prefixes: set[str] = set()
    plain = b_elsewhere = False
    for tags in sequences:
        before = "O"
        for tag in tags:
            if tag != "O":
                prefix, dash, kind = tag.partition("-")
                plain = plain or not dash or len(prefix) != 1
                prefixes.add(prefix if dash else "")
                b_elsewhere = b_elsewhere or (prefix == "B" and before[2:] != kind)
            before = tag
    if plain and not prefixes & {"B", "I"}:
        return "io"
    if "E" in prefixes and not prefixes & set("BSLUM"):
        return "ioe"
    if prefixes & set("ESLU"):
        return "bioes"
    if "I" in prefixes and not b_elsewhere:
        return "iob1" if "B" in prefixes else "io"
    return "bio"


def to_bio(tags: Sequence[str], scheme: str, where: str) -> tuple[list[str], int]:
    """Return BIO tags, and the number of tags that were illegal in their scheme.

    Raises :class:`DataError` for a tag of no known scheme.
    """
    converted: list[str] = []
    repaired = 0
    open_type, closed = "", True
    for tag in tags:
        if tag == UNTAGGED:
            converted.append(tag)
            continue
        if tag in ("O", ""):
            converted.append("O")
            repaired += tag == ""
            open_type, closed = "", True
            continue
        prefix, dash, kind = tag.partition("-")
        if scheme == "io" and (not dash or prefix not in NO_TYPES):
            prefix, kind = "I", tag
        elif not dash or prefix not in NO_TYPES or not kind:
            raise DataError(
                f"{where}: {tag!r} is not an entity tag: write O, or B-TYPE, I-TYPE and so on; --scheme io "
                f"takes tags as names of types"
            )
        goes_on = kind == open_type and not closed and prefix not in STARTS
        if not goes_on and prefix in INSIDE and scheme in ("bio", "bioes"):
            repaired += 1
        converted.append(f"{'I' if goes_on else 'B'}-{kind}")
        open_type, closed = kind, prefix in ENDS
    return converted, repaired


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return (type, first word, end) of each entity in a legal BIO sequence; the end is exclusive."""
    spans: list[tuple[str, int, int]] = []
    for number, tag in enumerate(tags):
        if tag.startswith("B-"):
            spans.append((tag[2:], number, number + 1))
        elif tag.startswith("I-"):  # a word before it may be untagged
            kind, first, _ = spans[-1]
            spans[-1] = (kind, first, number + 1)
    return spans


def best_path(scores: Tensor, tags: Sequence[str]) -> list[int]:
    """Return the legal tag sequence with the greatest sum of scores (words, tags), by the Viterbi algorithm."""
    if not len(scores):
        return []
    numbers = {tag: number for number, tag in enumerate(tags)}
    illegal = torch.zeros(len(tags), len(tags))  # [before, after]
    for tag, number in numbers.items():
        if tag.startswith("I-"):  # legal only after B- or I- of its type, and not at the start, like after O
            illegal[:, number] = float("-inf")
            illegal[[numbers[f"B-{tag[2:]}"], number], number] = 0.0
    best = scores[0] + illegal[0]
    back = []
    for row in scores[1:]:
        best, before = (best.unsqueeze(1) + illegal).max(0)
        best = best + row
        back.append(before)
    path = [int(best.argmax())]
    for before in reversed(back):
        path.append(int(before[path[-1]]))
    return path[::-1]


# ------------------------------------------------------------------------------------------ helpers


def _percent(key: str, value: float) -> float:
    return int(value) if key == "support" else round(100 * float(value), 2)
