"""Summarization: a shorter text that says what a longer one says.

An encoder-decoder reads the text as it is, a decoder reads it in a prompt. A text that is too long for the window
is cut at its end, and counted. Written summaries are compared by ROUGE with the nearest of the summaries given.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.plugins.contracts import Cleaned, Reading, Record
from adaptdock.tasks.prompts import Asked, fill
from adaptdock.tasks.rouge import rouge
from adaptdock.tasks.writing import Writing, WritingOptions, given, joined, required_text, required_texts, several


class SummarizationOptions(WritingOptions):
    """Options of ``summarization``."""

    named = ("source",)


class Summarization(Writing):
    """Writes summaries."""

    Options = SummarizationOptions
    columns = {
        "source": ("source", "document", "article", "text", "dialogue", "description", "documents"),
        "target": ("target", "summary", "highlights", "abstract", "tldr", "headline"),
    }
    sample = Path(__file__).parent / "samples" / "summarization"

    @classmethod
    def group(cls, record: Record) -> Hashable:
        """Keep the summaries of one text in one split."""
        return str(record["source"])

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Join texts given as sentences, and make a list of the summaries."""
        cleaned = []
        for record in records:
            where = str(record.get("where", split))
            source = required_text(record["source"], "source", where)
            cleaned.append({**record, "source": source, "target": required_texts(record["target"], "target", where)})
        return Cleaned(cleaned, several(cleaned, "target", split))

    def read(self, item: Any) -> Record:
        """Read a text, or an object with one under a name that data sets use, such as ``source``."""
        found = given(item, self.columns["source"]) if isinstance(item, Mapping) else item
        return {"source": joined(found, "source", "an input")}

    def ask(self, record: Record, reading: Reading) -> Asked:
        """Fill the prompt with the text."""
        own = "{source}" if reading.decoder_start is not None else "Summarize:\n{source}\n\nSummary:\n"
        return fill(self.options.prompt or own, {"source": record["source"]})

    def references(self, record: Record) -> list[str]:
        """Return the summaries."""
        return list(record["target"])

    def compare(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return ROUGE-1, ROUGE-2 and ROUGE-L, F1 in percent."""
        return rouge(list(map(self.references, records)), [prediction["text"] for prediction in predictions])
