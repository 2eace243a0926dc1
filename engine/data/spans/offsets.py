"""Offsets of spans: in which units a file counts them, and spans that do not fit their text.

Python counts code points; JavaScript and Java count UTF-16 units, some programs bytes of UTF-8, and some give the last
character in place of the one behind it. Which way is right shows in the texts that spans state, else in words.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import regex

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan, Relation

INSIDE_WORD = regex.compile(r"(?<=[\p{L}\p{N}])(?=[\p{L}\p{N}\p{M}])")


@dataclass(frozen=True)
class Unit:
    """A way to count: what a character of a text is worth, and whether an end is that of the last character."""

    name: str
    worth: Callable[[str], int]
    inclusive: bool = False


UNITS = (
    Unit("characters", lambda _: 1),
    Unit("UTF-16 units, as JavaScript and Java do", lambda character: 1 + (ord(character) > 0xFFFF)),
    Unit("bytes of UTF-8", lambda character: len(character.encode("utf-8", "surrogatepass"))),
    Unit("characters, and the end is that of the last one", lambda _: 1, inclusive=True),
)


def settled(texts: Sequence[AnnotatedText], findings: Findings) -> tuple[list[AnnotatedText], str]:
    """Return texts whose spans count code points and fit their text, and a note on how the file counts.

    White space at the borders of a span is left out of it. A span that is not where it says is moved to the nearest
    place of the text that it states; it is left out if there is none, and so is one outside the text.
    """
    unit = _unit(texts)
    converted = [_settled(text, unit, findings) for text in texts]
    return converted, "" if unit is UNITS[0] else f"offsets count {unit.name}: so the spans are at the texts they state"


def _unit(texts: Sequence[AnnotatedText]) -> Unit:
    """Return the unit in which most spans have their stated text; without any, the one in which they cut no words."""
    unclear = [text for text in texts if text.spans and (not text.text.isascii() or _states(text))]
    stated = [sum(_agreeing(text, unit) for text in unclear) for unit in UNITS]
    if any(map(_states, unclear)):
        return UNITS[stated.index(max(stated))]
    fitting = [sum(_fitting(text, unit) for text in unclear) for unit in UNITS[:3]]
    return UNITS[fitting.index(max(fitting))]


def _states(text: AnnotatedText) -> bool:
    return any(span.stated for span in (*(text.spans or ()), *text.words))


def _agreeing(text: AnnotatedText, unit: Unit) -> int:
    places = _places(text.text, unit)
    spans = [span for span in (*(text.spans or ()), *text.words) if span.stated]
    return sum(
        (bounds := _bounds(span, places, unit)) is not None and _same(text.text[slice(*bounds)], span.stated)
        for span in spans
    )


def _fitting(text: AnnotatedText, unit: Unit) -> int:
    """Count the spans that are within the text, and begin and end at the border of a word."""
    places = _places(text.text, unit)
    count = 0
    for span in text.spans or ():
        bounds = _bounds(span, places, unit)
        count += bounds is not None and not any(INSIDE_WORD.match(text.text, bound) for bound in bounds)
    return count


def _places(text: str, unit: Unit) -> dict[int, int]:
    """Return offset in this unit -> number of the character."""
    offsets = accumulate(map(unit.worth, text), initial=0)
    return {offset: number for number, offset in enumerate(offsets)}


def _bounds(span: LabelledSpan, places: dict[int, int], unit: Unit) -> tuple[int, int] | None:
    start, end = places.get(span.start), places.get(span.end + unit.inclusive)
    return None if start is None or end is None or start >= end else (start, end)


def _same(text: str, stated: str | None) -> bool:
    """Compare texts but for the kind and number of white space, which tools change where lines break."""
    return stated is not None and text.split() == stated.split()


def _settled(text: AnnotatedText, unit: Unit, findings: Findings) -> AnnotatedText:
    if text.spans is None and not text.words:
        return text
    places = _places(text.text, unit)
    numbers: dict[int, int] = {}
    spans: list[LabelledSpan] = []
    for number, span in enumerate(text.spans or ()):
        fitted = _fitted(span, text, _bounds(span, places, unit), findings)
        if fitted is None:
            continue
        if fitted in spans:
            findings.add("spans are there more than once, and are read once", text.place)
            numbers[number] = spans.index(fitted)
            continue
        numbers[number] = len(spans)
        spans.append(fitted)
    bounds = [_bounds(word, places, unit) for word in text.words]
    words = tuple(
        replace(word, start=bound[0], end=bound[1])
        for word, bound in zip(text.words, bounds, strict=True)
        if bound is not None
    )
    relations = _renumbered(text.relations, numbers)
    return replace(
        text, spans=None if text.spans is None else tuple(spans), words=_trusted(text, words), relations=relations
    )


def _fitted(
    span: LabelledSpan, text: AnnotatedText, bounds: tuple[int, int] | None, findings: Findings
) -> LabelledSpan | None:
    """Return a span that fits its text; None where there is no such."""
    what = f"{text.place} ({span.start} to {span.end}, {span.label})"
    if span.stated and span.stated.strip() and (bounds is None or not _same(text.text[slice(*bounds)], span.stated)):
        bounds = _nearest(span, text.text)
        if bounds is None:
            findings.add("spans state a text that is not there and are left out", what)
            return None
        findings.add("spans were moved to where their text is", what)
    if bounds is None:
        kind = "are empty" if span.start == span.end else "are outside their text"
        findings.add(f"spans {kind} and are left out", what)
        return None
    covered = text.text[slice(*bounds)]
    start = bounds[0] + len(covered) - len(covered.lstrip())
    end = start + len(covered.strip())
    if start == end:
        findings.add("spans hold white space only and are left out", what)
        return None
    if (start, end) != bounds:
        findings.add("spans begin or end with white space, which is left out of them", what)
    return LabelledSpan(start, end, span.label, text.text[start:end])


def _nearest(span: LabelledSpan, text: str) -> tuple[int, int] | None:
    """Return the place of the stated text that is nearest to where the span says that it is."""
    stated = regex.compile(r"\s+".join(map(regex.escape, (span.stated or "").split())))
    places = [match.span() for match in stated.finditer(text, overlapped=True)]
    return min(places, key=lambda place: abs(place[0] - span.start), default=None)


def _trusted(text: AnnotatedText, words: Sequence[LabelledSpan]) -> tuple[LabelledSpan, ...]:
    """Return the words of a tool if they are what they state and leave nothing out but white space; else none."""
    if len(words) != len(text.words) or any(word.stated != text.text[word.start : word.end] for word in words):
        return ()
    written = [word for word in words if text.text[word.start : word.end].strip()]
    ordered = all(before.end <= after.start for before, after in pairwise(written))
    covered = "".join(text.text[word.start : word.end] for word in written)
    return tuple(written) if ordered and "".join(covered.split()) == "".join(text.text.split()) else ()


def _renumbered(relations: Iterable[Relation], numbers: dict[int, int]) -> tuple[Relation, ...]:
    return tuple(
        Relation(numbers[relation.head], numbers[relation.tail], relation.label)
        for relation in relations
        if relation.head in numbers and relation.tail in numbers
    )
