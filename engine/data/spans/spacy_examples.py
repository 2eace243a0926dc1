"""spaCy's training examples: ``[text, {"entities": [...]}]``, with categories as ``cats``."""

from collections.abc import Iterator, Mapping
from typing import Any

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.marked_text import read_spans
from adaptdock.engine.data.spans.prodigy import chosen_categories
from adaptdock.engine.data.spans.tool import RowTool, text_column
from adaptdock.plugins.annotations import AnnotatedText

KEYS = ("entities", "cats", "spans")


class SpacyExamples(RowTool):
    """spaCy's examples: a pair of a text and an object, or an object with ``text`` and ``cats``."""

    name = "spacy"
    title = "spaCy's training examples"

    def recognises(self, row: Any) -> bool:
        """Tell a pair whose second part has entities or categories, or a text with values of categories."""
        if isinstance(row, list | tuple):
            return len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], Mapping) and _has_keys(row[1])
        return isinstance(row, Mapping) and text_column(row) is not None and isinstance(row.get("cats"), Mapping)

    def read(self, row: Any, place: str, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the text of an example."""
        text, content = row if isinstance(row, list | tuple) else (self.text_of(row, place), row)
        spans = content.get("entities")
        if spans is None and isinstance(content.get("spans"), Mapping):
            spans = [span for group in content["spans"].values() for span in group]
        cats = content.get("cats")
        yield AnnotatedText(
            str(text),
            place,
            None if spans is None else read_spans(spans, place, findings),
            chosen_categories(cats, place) if isinstance(cats, Mapping) else None,
        )


def _has_keys(content: Mapping[str, Any]) -> bool:
    return any(key in content for key in KEYS)
