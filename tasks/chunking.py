"""Chunking: phrases without overlap (noun, verb, prepositional, ...), as spans of the text; in all else as ``ner``."""

from pathlib import Path

from adaptdock.tasks.ner import NER


class Chunking(NER):
    """Finds and classifies the phrases of a sentence (Tjong Kim Sang and Buchholz 2000, CoNLL-2000)."""

    columns = {
        "tokens": ("tokens", "words", "token", "form", "0"),
        "tags": ("chunk_tags", "chunks", "tags", "labels", "misc:Chunk", "-1"),
    }

    @classmethod
    def sample(cls) -> Path:
        """Return the folder of the sample corpus, written for this project."""
        return Path(__file__).parent / "samples" / "chunking"
