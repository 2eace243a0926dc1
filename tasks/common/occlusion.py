"""Words of texts and of tagged sentences, and records without one of them, to explain answers by occlusion."""

from collections.abc import Sequence

from adaptdock.plugins.contracts import Record
from adaptdock.plugins.toolkit.word_division import Division, divide

Span = tuple[int, int]
FIELDS = ("text", "second")


def joined_texts(record: Record) -> str:
    """Return a text, or a pair of texts joined by a line break."""
    return "\n".join(record[name] for name in _fields(record))


def words_of_texts(record: Record) -> list[Span]:
    """Return the spans of the words of a text, or of a pair of texts joined by a line break."""
    spans: list[Span] = []
    offset = 0
    for name in _fields(record):
        spans += [(offset + start, offset + end) for (start, end), _ in divide(record[name], Division())]
        offset += len(record[name]) + 1
    return spans


def without_word(record: Record, word: int, filler: str) -> Record:
    """Return a text, or a pair of texts, with a word replaced by a filler; an empty one removes its white space too."""
    start, end = words_of_texts(record)[word]
    offset = 0
    for name in _fields(record):
        text = record[name]
        if start < offset + len(text):
            before, after = text[: start - offset], text[end - offset :]
            joint = after if filler else after.removeprefix(" ")
            return {**record, name: f"{before}{filler}{joint}"}
        offset += len(text) + 1
    raise IndexError(word)


def _fields(record: Record) -> list[str]:
    return [name for name in FIELDS if name in record]


def with_word(record: Record, word: int, filler: str) -> Record:
    """Return a sentence in which a filler has the place of a word, with the spans of the words after it moved."""
    tokens = list(record["tokens"])
    tokens[word] = filler
    if "spans" not in record:
        return {**record, "tokens": tokens}
    text, spans = record["text"], record["spans"]
    start, end = spans[word]
    moved = len(filler) - (end - start)
    return {
        **record,
        "tokens": tokens,
        "text": f"{text[:start]}{filler}{text[end:]}",
        "spans": [*spans[:word], (start, start + len(filler)), *_moved(spans[word + 1 :], moved)],
    }


def _moved(spans: Sequence[Span], by: int) -> list[Span]:
    return [(start + by, end + by) for start, end in spans]
