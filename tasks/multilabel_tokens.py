"""Several labels for each word, or none: a sigmoid for each label and word (binary relevance).

Such data are morphological features (``Case=Nom|Number=Sing``, Universal Dependencies) and overlapping marked spans:
each word has the labels of all spans around it. Each word is labelled at one of its tokens, like in ``pos``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import (
    AnnotatedText,
    Cleaned,
    Feature,
    FitExamples,
    LabelledSpan,
    Labels,
    Mark,
    Outcome,
    Passage,
    Reading,
    Record,
)
from adaptdock.plugins.toolkit.classic_answers import most_frequent_tags
from adaptdock.plugins.toolkit.heads import LayeredOptions, TokenHead
from adaptdock.plugins.toolkit.linear_fit import fit_sets
from adaptdock.plugins.toolkit.stored import in_sequence, stored
from adaptdock.plugins.toolkit.windowing import align
from adaptdock.tasks.common.outcomes import NONE
from adaptdock.tasks.ner import RECIPES
from adaptdock.tasks.tagging.divided_words import WordOptions, WordTask, strings, text_of
from adaptdock.tasks.tagging.label_sets import SEPARATOR, label_sets
from adaptdock.tasks.tagging.marked_texts import MARKS, marked_record, ranged_words
from adaptdock.tasks.tagging.sentence_columns import token_column

NOT_COUNTED = -100.0
JOINT = "|"
"""What divides the labels of a word in printed predictions."""


class MultilabelTokensOptions(LayeredOptions, WordOptions):
    """Options of ``multilabel-tokens``."""

    labels: Labels = ()
    """Labels; learnt from the training data unless given."""
    label_separator: str = Field(SEPARATOR, min_length=1)
    """Separator of the labels of a word in one text."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Lowest probability of a predicted label."""


class MultilabelTokens(WordTask):
    """Gives each word any number of labels."""

    Options = MultilabelTokensOptions
    options: MultilabelTokensOptions
    columns = {
        "tokens": ("tokens", "words", "token", "word", "form", "0"),
        "labels": ("labels", "token_labels", "word_labels", "feats", "tags", "-1"),
    }
    layout = "conll"
    metric = "f1"
    baseline_answer = "the most frequent set of labels for every word"
    sample = Path(__file__).parent / "samples" / "multilabel-tokens"
    recipes = RECIPES

    # ------------------------------------------------------------------------------------- data

    @classmethod
    def locate(cls, sentences: Sequence[Sequence[Sequence[str]]]) -> dict[str, int]:
        """Return the column of words; counters and names of documents are not words."""
        width = len(sentences[0]) if sentences else 0
        tokens = token_column(sentences, width - 1) if width > 1 else None
        return {} if tokens is None else {"tokens": tokens}

    @classmethod
    def annotated(cls, text: AnnotatedText) -> Record | None:
        """Return a text with its marked spans; each word has the labels of all spans around it."""
        return marked_record(text)

    def labels(self, record: Record) -> list[str]:
        """Return the labels of the words, each once."""
        if MARKS in record:
            return sorted({span.label for span in record[MARKS]})
        where = str(record.get("where", "a record"))
        return sorted(
            {label for labels in label_sets(record["labels"], self.options.label_separator, where) for label in labels}
        )

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Read the labels of each word as a sorted list."""
        raw = in_sequence(records)
        marked = ranged_words((record for record in raw if MARKS in record), split, self.options.division)

        def labelled(record: Record) -> Record:
            where = str(record.get("where", split))
            tokens = strings(record.get("tokens"), "tokens", where)
            labels = label_sets(record.get("labels"), self.options.label_separator, where)
            if len(tokens) != len(labels):
                raise DataError(f"{where}: {len(tokens)} tokens but labels for {len(labels)}")
            return {**record, "tokens": tokens, "labels": labels}

        listed = (labelled(record) for record in raw if MARKS not in record)
        return Cleaned(stored(chain(map(_with_labels, marked.records), listed)), marked.notes)

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn the labels, sorted by name, and the division into words."""
        labels = self.options.labels or tuple(sorted(_counts(records)))
        if not labels:
            raise DataError("the training data has no label of any word. --columns labels=COLUMN names another column")
        learnt = {"labels": labels, "division": self.learnt_division(records)}
        return type(self)(self.options.model_copy(update=learnt))

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept unknown labels, as some labels are rare; :meth:`score` counts them as missed."""

    def unknown(self, records: Sequence[Record]) -> Counter[str]:
        """Count the labels that training has not seen."""
        return Counter({name: count for name, count in _counts(records).items() if name not in self.options.labels})

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count sentences, words, words with several labels, and labels."""
        sizes = Counter(len(labels) for record in records for labels in record["labels"])
        return {
            "sentences": len(records),
            "words": sizes.total(),
            "with several labels": sum(count for size, count in sizes.items() if size > 1),
            "labels": dict(sorted(_counts(records).items())),
        }

    # ------------------------------------------------------------------------------------ model

    def head(self) -> TokenHead:
        """Return a linear layer from each hidden state to the labels."""
        return TokenHead(len(self.options.labels), self.options.hidden_layers, self.options.norms)

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise the sentence in overlapping windows; each word is labelled in one window."""
        text, places = self.read_text(record)
        features = align(text, places, reading)
        for feature in features if labelled else ():
            rows = [[NOT_COUNTED] * len(self.options.labels) for _ in feature.inputs["input_ids"]]
            for word, position in feature.alignment:
                rows[position] = [float(name in record["labels"][word]) for name in self.options.labels]
            feature.labels = [number for row in rows for number in row]
        return features

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the binary cross entropy, summed over labels, mean over words.

        ``logits`` (R, T, classes), ``labels`` (R, T classes).
        """
        targets = labels.reshape(logits.shape).to(logits.dtype)
        counted = targets != NOT_COUNTED
        losses: Tensor = functional.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), reduction="none")
        return (losses * counted).sum() / counted[..., 0].sum()

    def fit_head(self, examples: FitExamples, strength: float | None) -> dict[str, Tensor]:
        """Return a logistic regression of the words for each label."""
        return fit_sets(examples, strength)

    def probabilities(self, words: int, features: Sequence[Feature], digests: Sequence[Tensor]) -> Tensor:
        """Return the probabilities of the labels (words, labels), zero for a word without tokens."""
        probabilities = torch.zeros(words, len(self.options.labels))
        for feature, digest in zip(features, digests, strict=True):
            if feature.alignment:
                numbers, positions = zip(*feature.alignment, strict=True)
                probabilities[list(numbers)] = digest[list(positions)].float().sigmoid()
        return probabilities

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the words with their labels, character offsets, and the probability of each of these labels."""
        text, places = text_of(record)
        words = []
        for (start, end), row in zip(places, self.probabilities(len(places), features, digests).tolist(), strict=True):
            scores = {
                name: round(score, 4)
                for name, score in zip(self.options.labels, row, strict=True)
                if score >= self.options.threshold
            }
            entry = {"text": text[start:end], "labels": list(scores), "start": start, "end": end}
            words.append({**entry, "scores": scores})
        return {"text": text, "words": words}

    def annotation(self, prediction: Mapping[str, Any]) -> AnnotatedText:
        """Return the text with its words, each a span for every label."""
        words = prediction["words"]
        spans = [
            LabelledSpan(word["start"], word["end"], label, word["text"]) for word in words for label in word["labels"]
        ]
        tokens = tuple(LabelledSpan(word["start"], word["end"], stated=word["text"]) for word in words)
        return AnnotatedText(prediction["text"], "", tuple(spans), words=tokens)

    # ---------------------------------------------------------------------------------- metrics

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return precision, recall and F1 of the labels of words in percent, in all and by label.

        ``exact`` is the share of words with exactly the right labels.
        """
        pairs = [pair for row in zip(records, predictions, strict=True) for pair in _pairs(*row)]
        labels = sorted({*self.options.labels, *_counts(records)})
        counts = {name: _sums(pairs, name) for name in labels}
        right, expected, predicted = (sum(column) for column in zip(*counts.values(), strict=True))
        return {
            **_shares(right, expected, predicted),
            "exact": round(100 * sum(want == got for want, got in pairs) / max(1, len(pairs)), 2),
            "by_label": {name: {**_shares(*row), "support": row[1]} for name, row in counts.items()},
        }

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the number of right, of expected and of predicted labels."""
        pairs = _pairs(record, prediction)
        return (
            float(sum(len(want & got) for want, got in pairs)),
            float(sum(len(want) for want, _ in pairs)),
            float(sum(len(got) for _, got in pairs)),
        )

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return F1 in percent; 0 without labels."""
        right, expected, predicted = sums
        return 200 * right / (expected + predicted) if right else 0.0

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare the labels of the words; only words with a wrong or missing label are marked."""
        pairs = _pairs(record, prediction)
        places = text_of(record)[1]
        sides = [
            tuple(
                Mark(start, end, JOINT.join(sorted(pair[side])) or NONE, wrong=True)
                for (start, end), pair in zip(places, pairs, strict=True)
                if pair[0] != pair[1]
            )
            for side in (0, 1)
        ]
        passages = tuple(
            Passage(title, prediction["text"], marks)
            for title, marks in zip(("expected", "predicted"), sides, strict=True)
        )
        by_label = [
            (name if name in want else NONE, name if name in got else NONE)
            for want, got in pairs
            for name in sorted(want | got)
        ]
        error = sum(len(want ^ got) for want, got in pairs)
        scores = tuple(
            (score, label in want)
            for (want, _), word in zip(pairs, prediction["words"], strict=True)
            for label, score in word["scores"].items()
        )
        return Outcome(float(error), passages, tuple(by_label), scores)

    def support(self, records: Sequence[Record]) -> int:
        """Return the number of labels."""
        return _counts(records).total()

    def baseline(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the metrics of the most frequent set of labels, not the empty one, for every word."""
        sets = Counter(tuple(labels) for record in records for labels in record["labels"] if labels)
        labels = list(sets.most_common(1)[0][0]) if sets else []
        answers = [{"words": [{"labels": labels}] * len(record["labels"])} for record in records]
        return self.score(records, answers)

    def classic_answers(self, train: Sequence[Record], records: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
        """Return the set of labels that each word has most often."""
        sets = sorted({tuple(labels) for record in train for labels in record["labels"]})
        numbers = {labels: str(number) for number, labels in enumerate(sets)}
        sentences = [(record["tokens"], [numbers[tuple(labels)] for labels in record["labels"]]) for record in train]
        answers = most_frequent_tags(sentences, [record["tokens"] for record in records])
        return {
            "the most frequent labels of each word": [
                {"words": [{"labels": list(sets[int(number)])} for number in row]} for row in answers
            ]
        }

    def shown(self, record: Record) -> str:
        """Return a labelled sentence, each word with its labels."""
        words = zip(record["tokens"], record["labels"], strict=True)
        return self.render({"words": [{"text": token, "labels": labels} for token, labels in words]})

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Write each word with its labels: ``She/Case=Nom|Number=Sing sings``."""
        return " ".join(
            f"{word['text']}/{JOINT.join(word['labels'])}" if word["labels"] else str(word["text"])
            for word in prediction["words"]
        )


# ------------------------------------------------------------------------------------------ helpers


def _with_labels(record: Record) -> Record:
    """Return a record in which each word has the labels of the ranges around it."""
    labels: list[set[str]] = [set() for _ in record["tokens"]]
    for first, end, label in record["ranges"]:
        for word in range(first, end):
            labels[word].add(label)
    rest = {name: value for name, value in record.items() if name != "ranges"}
    return {**rest, "labels": [sorted(names) for names in labels]}


def _counts(records: Sequence[Record]) -> Counter[str]:
    return Counter(name for record in records for labels in record["labels"] for name in labels)


def _pairs(record: Record, prediction: Mapping[str, Any]) -> list[tuple[set[str], set[str]]]:
    """Return the expected and the predicted labels of each word."""
    return [
        (set(labels), set(word["labels"])) for labels, word in zip(record["labels"], prediction["words"], strict=True)
    ]


def _sums(pairs: Sequence[tuple[set[str], set[str]]], label: str) -> tuple[int, int, int]:
    """Return the number of words with a label that is right, expected and predicted."""
    expected, predicted = (
        ([label in side for side in sides] for sides in zip(*pairs, strict=True)) if pairs else ([], [])
    )
    return sum(map(min, expected, predicted)), sum(expected), sum(predicted)


def _shares(right: int, expected: int, predicted: int) -> dict[str, float]:
    shares = {
        "f1": 2 * right / max(1, expected + predicted),
        "precision": right / max(1, predicted),
        "recall": right / max(1, expected),
    }
    return {name: round(100 * share, 2) for name, share in shares.items()}
