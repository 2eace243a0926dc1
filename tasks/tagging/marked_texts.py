"""Texts with marked spans, as annotation tools export them, as sentences of words with a tag each, or with ranges."""

from collections.abc import Iterable, Mapping

from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan
from adaptdock.plugins.contracts import Cleaned, Record
from adaptdock.plugins.toolkit.marked_words import mark_words, ranges_of_words
from adaptdock.plugins.toolkit.stored import in_sequence, stored
from adaptdock.plugins.toolkit.word_division import Division
from adaptdock.tasks.common.examples import Examples

MARKS, WORDS = "marks", "words"
"""The fields of a raw record with marked spans, and with the places of the words that a tool has divided."""
CUTTING = "begin or end within a word, which is divided there"
OVERLAPPING = "overlap others, of which the longest is kept, and are left out"
INVISIBLE = "have no visible character and are left out"


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
    described = {CUTTING: Examples(), OVERLAPPING: Examples(), INVISIBLE: Examples()}

    def tagged(record: Record) -> Record:
        if MARKS not in record:
            return record
        words = mark_words(record["text"], record[MARKS], division or Division(), record.get(WORDS))
        kinds = {CUTTING: words.cutting, OVERLAPPING: words.overlapping, INVISIBLE: words.invisible}
        _describe(described, kinds, record, split)
        return _rest(record) | {"tokens": words.tokens, "tags": words.tags, "spans": words.spans}

    raw = in_sequence(records)
    tagged_records = stored(map(tagged, raw)) if any(MARKS in record for record in raw) else raw
    return Cleaned(tagged_records, _notes(described, split))


def ranged_words(records: Iterable[Record], split: str, division: Division | None) -> Cleaned:
    """Return records in which marked spans, which may overlap, have become ``ranges`` of words with a label."""
    described = {CUTTING: Examples(), INVISIBLE: Examples()}

    def ranged(record: Record) -> Record:
        words = ranges_of_words(record["text"], record[MARKS], division or Division(), record.get(WORDS))
        _describe(described, {CUTTING: words.cutting, INVISIBLE: words.invisible}, record, split)
        ranges = sorted({(first, end, mark.label) for mark, first, end in words.ranges})
        return _rest(record) | {"tokens": words.tokens, "ranges": ranges, "spans": words.spans}

    return Cleaned(stored(map(ranged, records)), _notes(described, split))


def _rest(record: Record) -> Record:
    return {name: value for name, value in record.items() if name not in (MARKS, WORDS)}


def _describe(
    described: Mapping[str, Examples], kinds: dict[str, list[LabelledSpan]], record: Record, split: str
) -> None:
    """Add each span with a little of the text around it, and its place."""
    text, where = record["text"], str(record.get("where", split))
    for kind, spans in kinds.items():
        for span in spans:
            described[kind].add(
                f"{text[span.start : span.end]!r:.40} ({span.label}) in "
                f"{text[max(0, span.start - 8) : span.end + 8]!r:.60} at {where}"
            )


def _notes(described: Mapping[str, Examples], split: str) -> list[str]:
    return [f"{split}: {spans.count} spans {kind}: {spans.with_rest()}" for kind, spans in described.items() if spans]
