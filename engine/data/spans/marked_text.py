"""Texts with marked characters: ``[start, end, label]``, or objects with a start, an end and a label.

Many programs write them, each with names of its own; the predictions of ``adapt predict --json`` are of this form.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.tool import RowTool, identifier_of, label_name, text_column, unprinted, whole_number
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan

SPANS = ("entities", "spans", "label", "labels", "annotations", "annotation", "ents", "ner", "tags", "ner_tags")
STARTS = ("start", "start_offset", "begin", "start_char", "startOffset", "char_start", "offset_start", "from")
ENDS = ("end", "end_offset", "stop", "end_char", "endOffset", "char_end", "offset_end", "to")
LABELS = ("label", "labels", "type", "tag", "entity_group", "entity", "entity_type", "category", "class", "name")
STATED = ("text", "word", "surface", "mention", "value")


class MarkedText(RowTool):
    """Any row with a text, and a list of spans in another column."""

    name = "spans"
    title = "texts with spans of characters"

    def recognises(self, row: Any) -> bool:
        """Tell a row with a text and spans; tokens with a tag each are not spans."""
        return isinstance(row, Mapping) and not has_tags(row) and bool(span_columns(row, self.preferred))

    def read(self, row: Any, place: str, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the text of a row with its spans; a row without any list of spans has not been annotated."""
        text = self.text_of(row, place)
        columns = span_columns(row, self.preferred)
        if len(columns) > 1:
            findings.add(f"rows have spans in {' and '.join(map(repr, columns))}; those of the first are read", place)
        empty = [name for name in SPANS if unprinted(row.get(name)) == []]
        marked = columns or [name for name in (*self.preferred, *empty) if name in row and name != text_column(row)]
        spans = None if not marked else read_spans(unprinted(row[marked[0]]), place, findings)
        yield AnnotatedText(text, place, spans, fields=row, identifier=identifier_of(row))


def has_tags(row: Mapping[str, Any]) -> bool:
    """Tell a row with a list of words and another of as many names or numbers: its labels are tags."""
    lists = [value for value in map(unprinted, row.values()) if isinstance(value, list | tuple) and value]
    words = [value for value in lists if all(isinstance(part, str) for part in value)]
    return any(
        len(tags) == len(tokens) and tags is not tokens and all(isinstance(tag, str | int) for tag in tags)
        for tokens in words
        for tags in lists
    )


def span_columns(row: Mapping[str, Any], preferred: Sequence[str] = ()) -> list[str]:
    """Return the columns that hold spans, if there is a text that they can be of."""
    text = text_column(row, preferred)
    if text is None:
        return []
    names = dict.fromkeys((*preferred, *SPANS))
    return [name for name in names if name != text and name in row and is_spans(unprinted(row[name]))]


def is_spans(value: Any) -> bool:
    """Tell a list of spans by its first element."""
    value = _by_row(value)
    if not isinstance(value, list | tuple) or not value:
        return False
    first = value[0]
    if isinstance(first, Mapping):
        return all(_first(first, names) is not None for names in (STARTS, ENDS, LABELS))
    return (
        isinstance(first, list | tuple)
        and len(first) >= 3
        and all(isinstance(part, int) and not isinstance(part, bool) for part in first[:2])
        and isinstance(first[2], str | int)
    )


def read_spans(value: Any, place: str, findings: Findings) -> tuple[LabelledSpan, ...]:
    """Return the spans of a list; raise :class:`DataError` where one of them is not a span."""
    value = _by_row(value)
    if not isinstance(value, list | tuple):
        raise DataError(f"{place}: spans are a list of [start, end, label]; found {value!r:.60}")
    spans: list[LabelledSpan] = []
    for part in value:
        if isinstance(part, Mapping):
            spans += _of_object(part, place, findings)
        elif isinstance(part, list | tuple) and len(part) >= 3:
            start, end = whole_number(part[0], place, "start"), whole_number(part[1], place, "end")
            spans.append(LabelledSpan(start, end, label_name(part[2], place)))
        else:
            raise DataError(f"{place}: a span is [start, end, label], or an object; found {part!r:.60}")
    return tuple(spans)


def _by_row(value: Any) -> Any:
    """Return a list of spans for an object of lists, which is how the datasets library keeps a list of objects."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(part, list) for part in value.values()):
        return value
    return [dict(zip(value, parts, strict=False)) for parts in zip(*value.values(), strict=False)]


def _of_object(part: Mapping[str, Any], place: str, findings: Findings) -> list[LabelledSpan]:
    """Return a span; of one with several labels the first is taken."""
    start, end, label = (_first(part, names) for names in (STARTS, ENDS, LABELS))
    for name, value in (("start", start), ("end", end), ("label", label)):
        if value is None:
            raise DataError(f"{place}: a span has no {name}: {dict(part)!r:.80}")
    labels = [label] if not isinstance(label, list | tuple) else list(label)
    if not labels:
        findings.add("spans have no label and are left out", place)
        return []
    if len(labels) > 1:
        findings.add("spans have several labels, of which the first is read", place)
    stated = _first(part, STATED)
    return [
        LabelledSpan(
            whole_number(start, place, "start"),
            whole_number(end, place, "end"),
            label_name(labels[0], place),
            stated if isinstance(stated, str) else None,
        )
    ]


def _first(part: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), None)
