"""The common part of tasks that answer for words: the division of a text into words, and the text for the model."""

from collections.abc import Mapping, Sequence
from typing import Any

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import ColumnInspector, LabelledSpan, Options, Record
from adaptdock.plugins.toolkit.division_learning import learn_division
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.plugins.toolkit.windowing import joined, split_words
from adaptdock.plugins.toolkit.word_division import Division, divide
from adaptdock.tasks.common.occlusion import with_word
from adaptdock.tasks.labels.printed_lists import printed_list
from adaptdock.tasks.tagging.sentence_columns import SPANS, marks_spans


class WordOptions(Options):
    """Options of all tasks whose answers are words."""

    division: Division | None = None
    """Division of a text into words: spaces, words or characters; learnt from the training data unless given."""


class WordTask(ColumnInspector):
    """A task with answers for the words of a text.

    An adapter without a division is from a release that divided texts by :func:`split_words`, which is still used for
    such adapters.
    """

    options: WordOptions
    keeps_words = True

    @classmethod
    def explain(cls, row: Mapping[str, Any]) -> str:
        """Explain a text with marked spans of characters, which is not read."""
        return SPANS if any(map(marks_spans, row.values())) else ""

    def learnt_division(self, records: Sequence[Record]) -> Division:
        """Return the division of the training records into words, unless the options have one."""
        division = self.options.division
        # A kind alone, from --division, has default rules: the others are learnt from the data.
        if division is None or division == Division(kind=division.kind):
            kind = None if division is None else division.kind
            division = learn_division(stored(record["tokens"] for record in records), kind)
        return division

    def notes(self) -> list[str]:
        """Return notes on an unusual division of texts into words."""
        return [] if self.options.division is None else self.options.division.notes()

    def read(self, item: Any) -> Record:
        """Read a text, or an object with ``tokens`` or ``text``."""
        if isinstance(item, Mapping) and "tokens" in item and not (_has_objects(item["tokens"]) and "text" in item):
            return {"tokens": strings(item["tokens"], "tokens", "an input")}
        text = item.get("text") if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise DataError(
                f"words are tagged in a text, or an object with 'text' or 'tokens'; found {type(item).__name__}"
            )
        if self.options.division is None:
            spans = split_words(text)
            return {"text": text, "spans": spans, "tokens": [text[start:end] for start, end in spans]}
        words = divide(text, self.options.division)
        return {"text": text, "spans": [span for span, _ in words], "tokens": [word for _, word in words]}

    def read_text(self, record: Record) -> tuple[str, list[tuple[int, int]]]:
        """Return the text that the model reads, and the spans of its words: joined by single spaces, as in training."""
        return text_of(record) if self.options.division is None else joined(record["tokens"])

    def words_of(self, prediction: Mapping[str, Any]) -> tuple[LabelledSpan, ...]:
        """Return the places of the words of a prediction and their tokens; texts are divided as by :meth:`read`."""
        tokens = prediction.get("tokens")
        record = self.read(prediction["text"] if tokens is None else {"tokens": tokens})
        words = zip(text_of(record)[1], record["tokens"], strict=True)
        return tuple(LabelledSpan(start, end, stated=token) for (start, end), token in words)

    def explained_text(self, record: Record) -> str:
        """Return the text, or the words joined by spaces."""
        return text_of(record)[0]

    def word_spans(self, record: Record) -> list[tuple[int, int]]:
        """Return the spans of the words in the text of :func:`text_of`."""
        return text_of(record)[1]

    def occluded(self, record: Record, word: int, filler: str) -> Record:
        """Return the sentence with a filler in the place of a word."""
        return with_word(record, word, filler)


def strings(value: Any, name: str, where: str) -> list[str]:
    """Return a list of texts, or the parts of a text between spaces; raise :class:`DataError` for anything else."""
    if isinstance(value, str):
        parts = printed_list(value)
        if parts is None or (name == "tokens" and not all(isinstance(part, str) for part in parts)):
            return value.split()
        value = parts
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        expected = f"{name} are a list of texts, or one text divided by spaces"
        raise DataError(f"{where}: {expected}; found {value!r:.60}{_instead(value, name)}")
    return list(value)


def text_of(record: Record) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of a record and the spans of its words; words without a text are joined by spaces."""
    if "spans" in record:
        return record["text"], record["spans"]
    return joined(record["tokens"])


def _has_objects(tokens: Any) -> bool:
    """Return whether tokens are objects with offsets in a text (Prodigy); such a text is divided again."""
    return isinstance(tokens, list | tuple) and any(isinstance(token, Mapping) for token in tokens)


def _instead(value: Any, name: str) -> str:
    """Return a sentence on a list without texts, and the way out."""
    if marks_spans(value):
        return f". {SPANS}"
    if not isinstance(value, list | tuple):
        return ""
    if any(isinstance(part, int | float) for part in value):
        return (
            f". The {name} are numbers, and the file does not say what they stand for: --tag-names O,B-PER,I-PER gives "
            f"the names of 0, 1, 2; or write the names in their place, or save the data set with ClassLabel, as Parquet"
        )
    return f". Some {name} are missing: fill them in, or leave such records out" if None in value else ""
