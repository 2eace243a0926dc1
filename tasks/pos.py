"""Parts of speech, or any other tag of single words: the most probable class of each word.

Of CoNLL-U, the words of the tree are read, without multiword tokens (3-4) and empty nodes (3.1).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import AnnotatedText, AnswerKind, Cleaned, Feature, LabelledSpan, Outcome, Record
from adaptdock.tasks.common.outcomes import word_outcome
from adaptdock.tasks.labels.uncounted import counted, counted_pairs
from adaptdock.tasks.ner import RECIPES
from adaptdock.tasks.tagging.divided_words import text_of
from adaptdock.tasks.tagging.sentence_columns import word_class_column
from adaptdock.tasks.tagging.tag_numbers import with_names
from adaptdock.tasks.tagging.word_tagging import Tagging, TaggingOptions, read_sentences


class POSOptions(TaggingOptions):
    """Options of ``pos``."""


class POS(Tagging):
    """Tags each word with its part of speech."""

    Options = POSOptions
    options: POSOptions
    columns = {
        "tokens": ("tokens", "words", "token", "word", "form", "0"),
        "tags": ("upos", "pos_tags", "pos", "tags", "tag", "pos_tag", "labels", "label", "xpos", "-1"),
    }
    layout = "conll"
    metric = "accuracy"
    sample = Path(__file__).parent / "samples" / "pos"
    recipes = RECIPES

    @property
    def tags(self) -> list[str]:
        """The classes of the head."""
        return list(self.options.labels)

    # ------------------------------------------------------------------------------------- data

    @classmethod
    def column_of_tags(cls, columns: Sequence[Sequence[str]]) -> int | None:
        """Return the column with parts of speech of the Universal Dependencies or the Penn Treebank."""
        return word_class_column(columns)

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check that each word has a tag."""
        sentences = read_sentences(with_names(records, self.options.tag_names, split), split)
        for record in sentences.records:
            if "" in record["tags"]:
                raise DataError(f"{record.get('where', split)}: a word has no tag")
        return sentences

    def fit(self, records: Sequence[Record]) -> Self:
        """Learn the tags, sorted by name, unless the options list them."""
        labels = self.options.labels or tuple(sorted({tag for record in records for tag in counted(record["tags"])}))
        if len(labels) < 2:
            raise DataError(f"the training data has one tag only ({', '.join(labels)}): nothing to distinguish")
        return self.learnt(records, labels)

    def check(self, records: Sequence[Record], split: str) -> None:
        """Accept unknown tags, as some tags are rare; :meth:`score` counts their words as wrong."""

    def unknown(self, records: Sequence[Record]) -> Counter[str]:
        """Count the words with tags that training has not seen."""
        return Counter(tag for record in records for tag in record["tags"] if tag not in self.options.labels)

    def describe(self, records: Sequence[Record]) -> dict[str, Any]:
        """Count sentences, words and tags."""
        counts = Counter(tag for record in records for tag in counted(record["tags"]))
        return {"sentences": len(records), "words": sum(counts.values()), "tags": dict(sorted(counts.items()))}

    # ------------------------------------------------------------------------------------ model

    def decode(self, record: Record, features: Sequence[Feature], digests: Sequence[Tensor]) -> dict[str, Any]:
        """Return the words with their tag, character offsets and score."""
        text, spans = text_of(record)
        scores = self.scores(len(spans), features, digests)
        words = [
            {
                "text": text[start:end],
                "tag": self.tags[number],
                "start": start,
                "end": end,
                "score": round(score, 4),
            }
            for (start, end), number, score in zip(spans, self.best(scores), scores.amax(-1).tolist(), strict=True)
        ]
        return {"text": text, "words": words}

    def annotation(self, prediction: Mapping[str, Any]) -> AnnotatedText:
        """Return the text with its words, each a span labelled with its tag."""
        words = [LabelledSpan(part["start"], part["end"], part["tag"], part["text"]) for part in prediction["words"]]
        return AnnotatedText(prediction["text"], "", tuple(words), words=tuple(words))

    @property
    def answer_kind(self) -> AnswerKind:
        """A tag for each word."""
        return "tags"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The tags."""
        return self.options.labels

    def score(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return accuracy and macro F1 over the words, and the figures of each tag, in percent (scikit-learn).

        Macro F1 is the mean over the tags that occur among labels or predictions. Words with a tag that is not in
        the training data are wrong; ``unknown_tags`` counts them.
        """
        from sklearn.metrics import f1_score, precision_recall_fscore_support

        gold, predicted = counted_pairs(
            [tag for record in records for tag in record["tags"]],
            [word["tag"] for prediction in predictions for word in prediction["words"]],
        )
        names = sorted(set(gold))
        rows = precision_recall_fscore_support(gold, predicted, labels=names, zero_division=0)
        right = sum(want == got for want, got in zip(gold, predicted, strict=True))
        return {
            "accuracy": round(100 * right / len(gold), 2),
            "macro_f1": round(100 * float(f1_score(gold, predicted, average="macro", zero_division=0)), 2),
            "unknown_tags": sum(tag not in self.tags for tag in gold),
            "by_tag": {
                name: {
                    "precision": round(100 * float(precision), 2),
                    "recall": round(100 * float(recall), 2),
                    "f1": round(100 * float(f1), 2),
                    "support": int(support),
                }
                for name, precision, recall, f1, support in zip(names, *rows, strict=True)
            },
        }

    def sums(self, record: Record, prediction: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the number of words with the right tag, and of all words."""
        pairs = list(zip(record["tags"], prediction["words"], strict=True))
        return float(sum(tag == word["tag"] for tag, word in pairs)), float(len(pairs))

    def of_sums(self, sums: Sequence[float]) -> float:
        """Return the accuracy in percent; 0 without words."""
        return 100 * sums[0] / sums[1] if sums[1] else 0.0

    def outcome(self, record: Record, prediction: Mapping[str, Any]) -> Outcome:
        """Compare the tags of the words."""
        return word_outcome(prediction["text"], record["tags"], prediction["words"])

    def tagged(self, tags: Sequence[str]) -> list[tuple[str, int, int]]:
        """Return each word with its tag."""
        return [(tag, number, number + 1) for number, tag in enumerate(tags)]

    def tags_of(self, label: str, words: int) -> list[str]:
        """Return the tag of a word."""
        return [label] * words

    def support(self, records: Sequence[Record]) -> int:
        """Return the number of words."""
        return sum(len(counted(record["tags"])) for record in records)

    def baseline(self, records: Sequence[Record]) -> dict[str, Any] | None:
        """Return the metrics of the most frequent tag for every word; None where there is no word."""
        counts = Counter(tag for record in records for tag in counted(record["tags"]))
        if not counts:
            return None
        tag = counts.most_common(1)[0][0]
        return self.score(records, [{"words": [{"tag": tag}] * len(record["tags"])} for record in records])

    def render(self, prediction: Mapping[str, Any]) -> str:
        """Write each word with its tag: ``Ada/PROPN sings/VERB``."""
        return " ".join(f"{word['text']}/{word['tag']}" for word in prediction["words"])
