"""Keyphrase extraction: which phrases of a text say what it is about.

Each word begins a keyphrase, continues one, or stands outside (B, I, O). A record's keyphrases are looked for in its
text, word by word, whatever their case; one that does not occur in it can't be extracted, and is left out with a note.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Feature, Options, Reading, Recipe, Record, Task
from adaptdock.plugins.toolkit.heads import TokenHead
from adaptdock.plugins.toolkit.windowing import Span, align, joined, split_words
from adaptdock.plugins.toolkit.word_division import Division, divide

OUTSIDE, BEGINS, INSIDE = range(3)
NOT_COUNTED = -100


class KeyphraseOptions(Options):
    """Options of ``keyphrase``."""

    threshold: float = 0.5
    """How probable it has to be that a word belongs to a keyphrase."""
    division: Division | None = None
    """How a text is divided into words: spaces, words or characters; words unless given."""


class Keyphrase(Task):
    """Extracts the keyphrases of a text."""

    Options = KeyphraseOptions
    options: KeyphraseOptions
    columns = {"text": ("text", "abstract", "document"), "keyphrases": ("keyphrases", "keywords")}
    layout = "jsonl"
    metric = "f1"
    sample = Path(__file__).parent / "sample"
    default_recipe = Recipe(learning_rate=2e-3, epochs=12, batch_size=8)

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check texts and keyphrases; leave out, and count, keyphrases that are not in their text."""
        found, absent, fitted = [], 0, self.fit([])
        for record in records:
            phrases = _phrases(record)
            there = [phrase for phrase in phrases if fitted._occurrences(record, phrase)]
            absent += len(phrases) - len(there)
            found.append({**record, "keyphrases": there})
        return Cleaned(found, [f"{split}: {absent} keyphrases are not in their text"] if absent else [])

    def fit(self, records: Sequence[Record]) -> Self:
        """Fix how texts are divided; the classes are always the same."""
        division = self.options.division or Division()
        return type(self)(self.options.model_copy(update={"division": division}))

    def check(self, records: Sequence[Record], split: str) -> None:
        """Refuse data in which there is nothing to find."""
        if not any(record["keyphrases"] for record in records):
            raise DataError(f"the {split} split has no keyphrase that occurs in its text")

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count texts and keyphrases."""
        return {"texts": len(records), "keyphrases": sum(len(record["keyphrases"]) for record in records)}

    def head(self) -> TokenHead:
        """Return a linear map to the three classes."""
        return TokenHead(3)

    def read(self, item: Any) -> Record:
        """Read a text, or an object with ``text``."""
        text = item.get("text") if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise DataError(f"keyphrases are found in a text, or an object with 'text'; found {type(item).__name__}")
        return {"text": text}

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise in overlapping windows; each word is labelled in one of them."""
        words, text = self._words(record["text"]), record["text"]
        spans = [span for span, _ in words]
        if self.options.division is not None:
            text, spans = joined([word for _, word in words])
        features = align(text, spans, reading)
        if labelled:
            classes = [OUTSIDE] * len(spans)
            for start, end in (span for phrase in record["keyphrases"] for span in self._occurrences(record, phrase)):
                classes[start:end] = [BEGINS] + [INSIDE] * (end - start - 1)
            for feature in features:
                feature.labels = [NOT_COUNTED] * len(feature.inputs["input_ids"])
                for word, position in feature.alignment:
                    feature.labels[position] = classes[word]
        return features

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross entropy over the labelled positions."""
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights)

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return each phrase once, in the order of the text, with the place and the score of its best occurrence."""
        text = record["text"]
        words = [span for span, _ in self._words(text)]
        shares = torch.zeros(len(words), 3)
        for feature, logits in zip(features, digests, strict=True):
            for word, position in feature.alignment:
                shares[word] = logits[position].float().softmax(-1)
        best: dict[str, dict[str, Any]] = {}
        for first, last in _runs(shares, self.options.threshold):
            start, end = words[first][0], words[last - 1][1]
            score = round(float(1 - shares[first:last, OUTSIDE].mean()), 4)
            known = best.get(text[start:end].lower())
            if known is None or known["score"] < score:
                best[text[start:end].lower()] = {"text": text[start:end], "start": start, "end": end, "score": score}
        return {"text": text, "keyphrases": sorted(best.values(), key=lambda phrase: phrase["start"])}

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return precision, recall and F1 of the phrases, compared without case, in percent."""
        gold = [{self._key(phrase) for phrase in record["keyphrases"]} for record in records]
        found = [{self._key(phrase["text"]) for phrase in prediction["keyphrases"]} for prediction in predictions]
        right = sum(len(want & got) for want, got in zip(gold, found, strict=True))
        precision = right / max(1, sum(map(len, found)))
        recall = right / max(1, sum(map(len, gold)))
        f1 = 2 * precision * recall / (precision + recall) if right else 0.0
        return {
            "f1": round(100 * f1, 2),
            "precision": round(100 * precision, 2),
            "recall": round(100 * recall, 2),
        }

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Write the phrases, divided by semicolons."""
        return "; ".join(phrase["text"] for phrase in prediction["keyphrases"])

    def _words(self, text: str) -> list[tuple[Span, str]]:
        """Return the words of a text; adapters without a division are of a release that divided as split_words does."""
        if self.options.division is None:
            return [((start, end), text[start:end]) for start, end in split_words(text)]
        return divide(text, self.options.division)

    def _key(self, phrase: str) -> tuple[str, ...]:
        return tuple(word.lower() for _, word in self._words(phrase))

    def _occurrences(self, record: Record, phrase: str) -> list[Span]:
        """Return where a phrase stands in a record's text, as spans of word numbers."""
        words, wanted = self._key(record["text"]), self._key(phrase)
        places = range(len(words) - len(wanted) + 1)
        return [
            (start, start + len(wanted)) for start in places if wanted and words[start : start + len(wanted)] == wanted
        ]


def _phrases(record: Record) -> list[str]:
    """Return a record's keyphrases, a list or one text divided by semicolons; raise :class:`DataError` if neither."""
    if not isinstance(record["text"], str):
        raise DataError(f"{record['where']}: the text has to be a text, found {record['text']!r:.60}")
    given = record["keyphrases"]
    phrases = given.split(";") if isinstance(given, str) else given
    if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
        raise DataError(
            f"{record['where']}: keyphrases are a list of texts, or one divided by semicolons: {given!r:.60}"
        )
    return [phrase.strip() for phrase in phrases if phrase.strip()]


def _runs(shares: Tensor, threshold: float) -> list[Span]:
    """Return runs of words (words, 3) that belong together; a word that begins a phrase ends the one before."""
    runs: list[list[int]] = []
    for word, (outside, begins, inside) in enumerate(shares.tolist()):
        if begins + inside < threshold or outside + begins + inside == 0:
            continue
        if runs and runs[-1][1] == word and inside >= begins:
            runs[-1][1] = word + 1
        else:
            runs.append([word, word + 1])
    return [(first, last) for first, last in runs]
