"""The common part of tasks with one answer per text or pair of texts: windows, a pooled head, mean of windows."""

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, ColumnInspector, Feature, Reading, Recipe, Record
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.plugins.toolkit.windowing import windows

RECIPES = {
    "lora": Recipe(
        learning_rate=1e-3,
        epochs=5,
        batch_size=16,
        backbone_dropout=True,
        method_options={"roles": ["all"], "learning_rate_factor_b": 4},
    ),
    "dora": Recipe(learning_rate=1e-3, epochs=5, batch_size=16, method_options={"roles": ["all"]}),
    "bottleneck": Recipe(
        learning_rate=2e-3,
        epochs=5,
        batch_size=16,
        method_options={"parallel": True, "activation": "gelu", "reduction_factor": 12},
    ),
    "prefix": Recipe(
        learning_rate=2e-3, epochs=5, batch_size=16, method_options={"length": 32, "learning_rate_factor": 40}
    ),
    "ia3": Recipe(learning_rate=1e-3, epochs=5, batch_size=16, method_options={"learning_rate_factor": 30}),
    "features": Recipe(learning_rate=5e-3, epochs=20, batch_size=16),
    "full": Recipe(learning_rate=1e-4, epochs=5, batch_size=16, backbone_dropout=True),
}
NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*")
ENOUGH = 10
"""Fewest texts for a note that all are numbers, or all the same."""
TEXT = (
    *("text", "sentence", "content", "review", "tweet", "question", "utterance", "sms", "headline", "message"),
    *("comment", "comment_text", "body", "0"),
)
FIRST = ("premise", "sentence1", "question1", "text1", "text", "sentence", "first", "0")
SECOND = ("hypothesis", "sentence2", "question2", "text2", "text_pair", "second", "1")


class SequenceTask(ColumnInspector):
    """A task with one answer for a text, or for a pair of texts.

    A text longer than a window is read in several windows. Each is trained on the text's label, and their mean logits
    give the answer.
    """

    layout = "csv"
    texts: ClassVar[tuple[str, ...]] = ("text",)
    pair: ClassVar[bool] = False
    """Whether a record has to have a second text."""
    recipes = RECIPES

    # ------------------------------------------------------------------------------------- data

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Check texts and labels; note empty texts, and texts that suggest a wrong column."""
        texts = _TextSurvey()
        checked = stored(texts.counted(self._checked(record), split) for record in records)
        return Cleaned(checked, texts.notes(split))

    def _checked(self, record: Record) -> Record:
        where = str(record.get("where", "a record"))
        texts = self._texts(record, where)
        if record.get("label") is None:
            raise DataError(f"{where}: the label is missing")
        return {**record, **texts, "label": self.label(record["label"], where)}

    def _texts(self, record: Mapping[str, Any], where: str) -> dict[str, str]:
        texts: dict[str, Any] = {"text": record.get("text")}
        if self.pair or record.get("second") is not None:
            texts["second"] = record.get("second")
        for name, text in texts.items():
            if not isinstance(text, str):
                raise DataError(f"{where}: {name} has to be a text, found {text!r:.60}")
        return texts

    @abstractmethod
    def label(self, value: Any, where: str) -> Any:
        """Return a record's label in the form of this task; raise :class:`DataError` for an invalid label."""

    @abstractmethod
    def target(self, record: Record) -> Any:
        """Return the target of the loss for the windows of a record."""

    # ------------------------------------------------------------------------------------ model

    def read(self, item: Any) -> Record:
        """Read a text, a pair as a list of two, or an object with ``text`` (and ``second``)."""
        if isinstance(item, str) and not self.pair:
            return {"text": item}
        if isinstance(item, list | tuple) and len(item) == 2:
            item = {"text": item[0], "second": item[1]}
        if not isinstance(item, Mapping):
            expected = "an object with 'text' and 'second', or a list of both" if self.pair else "a text, or an object"
            raise DataError(f"this task reads {expected}; found {type(item).__name__}")
        renamed = {**item, **_renamed(item, self.columns)}
        return self._texts(renamed, "an input")

    def encode(self, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
        """Tokenise in overlapping windows, each with the record's label."""
        features = windows(record["text"], record.get("second"), reading)
        if labelled:
            for feature in features:
                feature.labels = self.target(record)
        return features


class _TextSurvey:
    """What the texts of a split have in common, counted while they are read."""

    def __init__(self) -> None:
        self.total = self.empty = 0
        self.first, self.first_empty = "", ""
        self.all_numbers = self.all_same = True

    def counted(self, record: Record, split: str) -> Record:
        """Return a record, and count its text."""
        text = record["text"].strip()
        if not self.total:
            self.first = text
        self.total += 1
        if not text:
            self.empty += 1
            self.first_empty = self.first_empty or str(record.get("where", split))
        self.all_numbers = self.all_numbers and NUMBER.fullmatch(text) is not None
        self.all_same = self.all_same and text == self.first
        return record

    def notes(self, split: str) -> list[str]:
        """Return notes on empty texts, and if all are numbers, or all are the same: probably the wrong column."""
        notes = [f"{split}: {self.empty} texts are empty, such as {self.first_empty}"] if self.empty else []
        way_out = "if this is not the column of the text, --columns text=COLUMN names it"
        if self.total < ENOUGH:
            return notes
        if self.all_numbers:
            return [*notes, f"{split}: each text is a number, such as {self.first!r}: {way_out}"]
        if self.all_same:
            return [*notes, f"{split}: all {self.total} texts are the same, {self.first[:60]!r}: {way_out}"]
        return notes


def mean(digests: Sequence[Tensor]) -> Tensor:
    """Return the mean logits (classes) of a record's windows."""
    return torch.stack(list(digests)).float().mean(0)


def _renamed(item: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return the fields of an input with the column names of a known data set."""
    renamed = {}
    for name, accepted in columns.items():
        column = next((column for column in accepted if column in item), None)
        if name not in item and name != "label" and column is not None:
            renamed[name] = item[column]
    return renamed
