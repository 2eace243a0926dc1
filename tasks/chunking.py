"""Chunking: phrases without overlap (noun, verb, prepositional, ...) as spans of the text; otherwise like ``ner``."""

from collections.abc import Sequence
from pathlib import Path

from adaptdock.tasks.ner import NER
from adaptdock.tasks.tagging.sentence_columns import phrase_column


class Chunking(NER):
    """Finds and classifies the phrases of a sentence (Tjong Kim Sang and Buchholz 2000, CoNLL-2000)."""

    columns = {
        "tokens": ("tokens", "words", "token", "word", "form", "0"),
        "tags": ("chunk_tags", "chunks", "chunk", "tags", "tag", "labels", "misc:Chunk", "-1"),
    }
    sample = Path(__file__).parent / "samples" / "chunking"

    @classmethod
    def column_of_tags(cls, columns: Sequence[Sequence[str]]) -> int | None:
        """Return the column with tags of phrases."""
        return phrase_column(columns)
