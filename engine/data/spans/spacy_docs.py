"""spaCy's DocBin (``.spacy``): documents with tokens, entities, span groups and categories, read through spaCy."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.prodigy import CHOSEN
from adaptdock.engine.data.spans.tool import FileTool
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan

SUFFIX = ".spacy"
COMPRESSED = (b"\x78\x9c", b"\x78\x01", b"\x78\xda")
ATTRIBUTES = b"attrs"


class SpacyDocs(FileTool):
    """A DocBin; where a document has no entities, those of its only span group are read."""

    name = "docbin"
    title = "spaCy's DocBin"

    def recognises(self, path: Path, texts: Texts) -> bool:
        """Tell a file of the suffix .spacy, or one that is compressed as a DocBin and begins like it."""
        if not path.is_file():
            return False
        if path.suffix.lower() == SUFFIX:
            return True
        with path.open("rb") as stream:
            head = stream.read(512)
        if head[:2] not in COMPRESSED:
            return False
        try:
            return ATTRIBUTES in zlib.decompressobj().decompress(head, 64)
        except zlib.error:
            return False

    def read(self, path: Path, texts: Texts, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the documents; raise :class:`DataError` where spaCy is not installed, or cannot read them."""
        try:
            import spacy
            from spacy.tokens import DocBin
        except ImportError:
            raise DataError(
                f"{path}: a DocBin of spaCy, which is read by spaCy itself: pip install 'adaptdock[spacy]'"
            ) from None
        try:
            documents = list(DocBin().from_disk(path).get_docs(spacy.blank("xx").vocab))
        except Exception as error:  # msgpack, zlib and spaCy raise many kinds, all of them about this file
            raise DataError(f"{path}: not a DocBin that spaCy {spacy.__version__} can read: {error!r:.120}") from error
        for number, document in enumerate(documents):
            place = f"{path}[{number}]"
            words = tuple(LabelledSpan(word.idx, word.idx + len(word.text), stated=word.text) for word in document)
            labels = tuple(name for name, value in document.cats.items() if value >= CHOSEN) if document.cats else None
            yield AnnotatedText(document.text, place, _spans(document, place, findings), labels, words=words)


def _spans(document: Any, place: str, findings: Findings) -> tuple[LabelledSpan, ...] | None:
    """Return the entities; a document whose entities nobody has set has none, and no spans."""
    spans = list(document.ents)
    groups = {name: list(group) for name, group in document.spans.items() if len(group)}
    if not spans and groups:
        if len(groups) > 1:
            findings.add(f"documents have the span groups {', '.join(groups)}; the first is read", place)
        spans = next(iter(groups.values()))
    if not spans and not document.has_annotation("ENT_IOB"):
        return None
    return tuple(LabelledSpan(span.start_char, span.end_char, span.label_, span.text) for span in spans)
