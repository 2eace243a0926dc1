"""The forms in which data has labelled spans of words: ranges of word numbers, or tags.

A range is (first word, end, label), the end exclusive. Files have the last word in its place (GLiNER, DyGIE) or the
end (SpERT); which of the two shows in spans of one word, and in spans that reach the end of a sentence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Cleaned, Record
from adaptdock.plugins.toolkit.stored import stored
from adaptdock.tasks.labels.printed_lists import printed
from adaptdock.tasks.labels.uncounted import UNTAGGED, tags_with_gaps
from adaptdock.tasks.tagging.divided_words import strings

Range = tuple[int, int, str]
WordEnds = Literal["auto", "inclusive", "exclusive"]
RANGES, INNER = "ranges", "inner"
"""The fields of labelled spans, and of a second column of tags, for spans inside of others."""
STARTS = ("start", "token_start", "start_token", "start_idx", "begin", "first")
ENDS = ("end", "token_end", "end_token", "end_idx", "last")
LABELS = ("label", "type", "tag", "entity_type", "category", "class")
OUTSIDE = "O"
ENOUGH = 20
"""Spans without one whose numbers are equal, from which on the second number is the end."""
FORM = "labelled spans of words are a list of [first, last, label], of objects with start, end and label, or of tags"


def are_tags(value: Any) -> bool:
    """Return whether a value is a list of tags, one for each word, or a text of such."""
    if isinstance(value, str):
        parts = printed(value)
        return bool(value.split()) if parts is None else are_tags(parts)
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(part is None or isinstance(part, str | int) for part in value)


def labels_in(value: Any, where: str) -> list[str]:
    """Return the labels of spans in any form, or the tags, each once."""
    if are_tags(value):
        return sorted({str(tag) for tag in tags_with_gaps(value)} - {OUTSIDE, UNTAGGED})
    return sorted({label for _, _, label in _ranges(value, where)})


def each_tagged(value: Any, where: str) -> Any:
    """Return tags as they are; raise :class:`DataError` for words without a tag, which would count as outside."""
    tags = tags_with_gaps(value)
    if isinstance(tags, list) and UNTAGGED in tags:
        raise DataError(
            f"{where}: {tags.count(UNTAGGED)} words have no tag (-1, -100 or null), and spans read one for each word: "
            f"write O for a word outside of all spans"
        )
    return value


def with_ranges(records: Iterable[Record], split: str, ends: WordEnds) -> Cleaned:
    """Return records whose spans of words are ranges with exclusive ends, and a note on the ends in the data.

    Raises :class:`DataError` for spans outside of their sentence, and where it is open which ends they have.
    """
    read = stored(_read(record, str(record.get("where", split))) for record in records)
    has_spans = any(record[RANGES] for record in read)
    inclusive = ends == "inclusive" or (ends == "auto" and has_spans and _are_inclusive(read, split))
    cleaned = stored(
        {**record, RANGES: _exclusive(record, inclusive, str(record.get("where", split)))} for record in read
    )
    if ends != "auto" or not has_spans:
        return Cleaned(cleaned)
    kind = "its last word (inclusive)" if inclusive else "the word behind it (exclusive)"
    return Cleaned(cleaned, [f"{split}: the second number of a span is read as {kind} (--word-ends)"])


def _exclusive(record: Record, inclusive: bool, where: str) -> list[Range]:
    length = len(record["tokens"])
    for first, last, label in record[RANGES]:
        if not 0 <= first < last + inclusive <= length:
            raise DataError(
                f"{where}: the span {[first, last, label]} is not in its sentence of {length} words (0 to "
                f"{length - 1}); its second number is read as {'the last word' if inclusive else 'the word behind it'} "
                f"(--word-ends)"
            )
    return sorted({(first, last + inclusive, label) for first, last, label in record[RANGES]})


def _are_inclusive(records: Sequence[Record], split: str) -> bool:
    """Return whether the second numbers are last words; raise :class:`DataError` where that is open."""

    def first(fits: Callable[[Range, Record], bool]) -> tuple[Range, Record] | None:
        return next(((span, record) for record in records for span in record[RANGES] if fits(span, record)), None)

    equal = first(lambda span, _: span[0] == span[1])
    reaching = first(lambda span, record: span[1] == len(record["tokens"]))
    if equal and reaching:
        raise DataError(
            f"{split}: spans contradict each other: {_placed(*equal)} has its last word as second number, and "
            f"{_placed(*reaching)}, of {len(reaching[1]['tokens'])} words, the word behind it"
        )
    example = first(lambda span, _: True)
    if not equal and not reaching and example and sum(len(record[RANGES]) for record in records) < ENOUGH:
        raise DataError(
            f"{split}: it is open whether the second number of a span is its last word or the word behind it, such as "
            f"{_placed(*example)}: say which with --word-ends inclusive or --word-ends exclusive"
        )
    return bool(equal)


def _placed(span: Range, record: Record) -> str:
    return f"{list(span)} at {record.get('where', 'a record')}"


def _read(record: Record, where: str) -> Record:
    """Return a record with its tokens, and first word, second number and label of each span."""
    tokens = strings(record.get("tokens"), "tokens", where)
    return {**record, "tokens": tokens, RANGES: _ranges(record.get(RANGES), where)}


def _ranges(value: Any, where: str) -> list[Range]:
    parts = printed(value) if isinstance(value, str) else value
    if isinstance(parts, Mapping):  # the datasets library keeps a list of objects as an object of lists
        columns = [column if isinstance(column, list) else [] for column in parts.values()]
        parts = [dict(zip(parts, row, strict=False)) for row in zip(*columns, strict=False)]
    if not isinstance(parts, list | tuple):
        raise DataError(f"{where}: {FORM}; found {value!r:.60}")
    return [_range(part, where) for part in parts]


def _range(part: Any, where: str) -> Range:
    start = end = label = None
    if isinstance(part, Mapping):
        start, end, label = (
            next((part[name] for name in names if part.get(name) is not None), None) for names in (STARTS, ENDS, LABELS)
        )
    elif isinstance(part, list | tuple) and len(part) >= 3:
        start, end, label = part[:3]
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (start, end))
    if not whole or not isinstance(label, str) or not label.strip():
        raise DataError(f"{where}: {FORM}; found {part!r:.60}")
    return int(str(start)), int(str(end)), label.strip()
