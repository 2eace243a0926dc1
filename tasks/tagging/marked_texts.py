"""Texts with marked spans, as annotation tools export them, as sentences of words with a tag each."""

from collections.abc import Iterable, Sequence

from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan
from adaptdock.plugins.contracts import Cleaned, Record
from adaptdock.plugins.toolkit.marked_words import mark_words
from adaptdock.plugins.toolkit.stored import in_sequence, stored
from adaptdock.plugins.toolkit.word_division import Division

MARKS, WORDS = "marks", "words"
"""The fields of a raw record with marked spans, and with the places of the words that a tool has divided."""
SHOWN = 5


def marked_record(text: AnnotatedText) -> Record | None:
    """Return the raw record of an annotated text; None where nobody has looked for spans in it."""
    if text.spans is None:
        return None
    words = [(word.start, word.end) for word in text.words]
    return {"text": text.text, MARKS: list(text.spans), **({WORDS: words} if words else {})}


def tagged_words(records: Iterable[Record], split: str, division: Division | None) -> Cleaned:
    """Return records in which marked spans have become tags of words; others stay as they are.

    The text of a record and the places of its words stay with it, so that entities have their offsets in the text.
    """
    cutting: list[str] = []
    overlapping: list[str] = []
    invisible: list[str] = []

    def tagged(record: Record) -> Record:
        if MARKS not in record:
            return record
        text, where = record["text"], str(record.get("where", split))
        words = mark_words(text, record[MARKS], division or Division(), record.get(WORDS))
        cutting.extend(_described(words.cutting, text, where))
        overlapping.extend(_described(words.overlapping, text, where))
        invisible.extend(_described(words.invisible, text, where))
        rest = {name: value for name, value in record.items() if name not in (MARKS, WORDS)}
        return rest | {"tokens": words.tokens, "tags": words.tags, "spans": words.spans}

    raw = in_sequence(records)
    tagged_records = stored(map(tagged, raw)) if any(MARKS in record for record in raw) else raw
    notes = []
    for spans, what in (
        (cutting, "begin or end within a word, which is divided there"),
        (overlapping, "overlap others, of which the longest is kept, and are left out"),
        (invisible, "have no visible character and are left out"),
    ):
        if spans:
            more = f" and {len(spans) - SHOWN} more" if len(spans) > SHOWN else ""
            notes.append(f"{split}: {len(spans)} spans {what}: {', '.join(spans[:SHOWN])}{more}")
    return Cleaned(tagged_records, notes)


def _described(spans: Sequence[LabelledSpan], text: str, where: str) -> list[str]:
    """Return each span with a little of the text around it, and its place."""
    return [
        f"{text[span.start : span.end]!r:.40} ({span.label}) in {text[max(0, span.start - 8) : span.end + 8]!r:.60} at "
        f"{where}"
        for span in spans
    ]
