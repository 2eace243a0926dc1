"""Summarization: a short text with the content of a longer one.

An encoder-decoder reads the text as it is, a decoder reads it in a prompt. A text longer than the window is cut at its
end, and the cut is counted. Generated summaries are compared with the nearest reference summary by ROUGE.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.plugins.contracts import Cleaned, Reading, Record
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.writing.prompts import Conversation, fill
from adaptdock.tasks.writing.rouge import rouge
from adaptdock.tasks.writing.written_answers import (
    Writing,
    WritingOptions,
    first_value,
    joined,
    required_text,
    required_texts,
    several,
)


class SummarizationOptions(WritingOptions):
    """Options of ``summarization``."""

    prompt_fields = ("source",)


class Summarization(Writing):
    """Generates summaries."""

    Options = SummarizationOptions
    columns = {
        "source": ("source", "document", "article", "text", "dialogue", "description", "documents"),
        "target": ("target", "summary", "highlights", "abstract", "tldr", "headline"),
    }
    sample = Path(__file__).parent / "samples" / "summarization"

    @classmethod
    def group(cls, record: Record) -> Hashable:
        """Return the text, whose summaries all go into the same split."""
        return str(record["source"])

    def clean(self, records: Iterable[Record], split: str) -> Cleaned:
        """Join lists of sentences, and make a list of the summaries."""

        def joined_texts(record: Record) -> Record:
            where = str(record.get("where", split))
            source = required_text(record["source"], "source", where)
            return {**record, "source": source, "target": required_texts(record["target"], "target", where)}

        cleaned = stored(map(joined_texts, records))
        return Cleaned(cleaned, several(cleaned, "target", split))

    def read(self, item: Any) -> Record:
        """Read a text, or an object with a text in a field such as ``source``."""
        value = first_value(item, self.columns["source"]) if isinstance(item, Mapping) else item
        return {"source": joined(value, "source", "an input")}

    def ask(self, record: Record, reading: Reading) -> Conversation:
        """Return the prompt template, filled with the text."""
        default = "{source}" if reading.decoder_start is not None else "Summarize:\n{source}\n\nSummary:\n"
        return fill(self.options.prompt or default, {"source": record["source"]})

    def references(self, record: Record) -> list[str]:
        """Return the reference summaries."""
        return list(record["target"])

    def compare(self, records: Sequence[Record], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return ROUGE-1, ROUGE-2 and ROUGE-L, F1 in percent."""
        return rouge(list(map(self.references, records)), [prediction["text"] for prediction in predictions])
