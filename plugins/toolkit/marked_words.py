"""Words with a tag each, or with ranges, from a text in which spans of characters are marked.

The extent of a marked span is kept to the character: a word that it cuts is divided there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from adaptdock.plugins.annotations import LabelledSpan
from adaptdock.plugins.toolkit.visible_characters import visible
from adaptdock.plugins.toolkit.word_division import Division, Span, divide

OUTSIDE = "O"


@dataclass
class RangedWords:
    """The words of a text with their places, the range of words of each marked span, and the spans that did not fit."""

    tokens: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    ranges: list[tuple[LabelledSpan, int, int]] = field(default_factory=list)
    """A marked span, its first word, and the word behind its last one."""
    cutting: list[LabelledSpan] = field(default_factory=list)
    """They begin or end within a word."""
    invisible: list[LabelledSpan] = field(default_factory=list)
    """They have no visible character, and no range."""


@dataclass
class MarkedWords:
    """The words of a text with their BIO tags and places, and the spans that did not fit the words."""

    tokens: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    cutting: list[LabelledSpan] = field(default_factory=list)
    """They begin or end within a word."""
    overlapping: list[LabelledSpan] = field(default_factory=list)
    """They have characters in common with a longer one, or an earlier one of the same length, and get no tag."""
    invisible: list[LabelledSpan] = field(default_factory=list)
    """They have no visible character, and get no tag."""


def mark_words(
    text: str, marks: Sequence[LabelledSpan], division: Division, words: Sequence[Span] | None = None
) -> MarkedWords:
    """Return the words of a text with the tags of its marked spans.

    ``words`` are the places of words that are divided already; else ``division`` tells. Offsets count code points.
    """
    overlapping: list[LabelledSpan] = []
    ranged = ranges_of_words(text, _apart(marks, overlapping), division, words)
    tags = [OUTSIDE] * len(ranged.tokens)
    for mark, first, end in ranged.ranges:
        tags[first:end] = [f"B-{mark.label}", *[f"I-{mark.label}"] * (end - first - 1)]
    return MarkedWords(ranged.tokens, ranged.spans, tags, ranged.cutting, overlapping, ranged.invisible)


def ranges_of_words(
    text: str, marks: Sequence[LabelledSpan], division: Division, words: Sequence[Span] | None = None
) -> RangedWords:
    """Return the words of a text with the ranges of its marked spans, which may overlap; arguments as above."""
    ranged = RangedWords()
    if words is None:
        whole = divide(text, division)
    else:
        whole = [((start, end), _seen(text[start:end], division)) for start, end in words]
    bounds = sorted({bound for mark in marks for bound in (mark.start, mark.end)})
    for (start, end), token in whole:
        cuts = [bound for bound in bounds if start < bound < end]
        for first, last in zip([start, *cuts], [*cuts, end], strict=True):
            part = _seen(text[first:last], division) if cuts else token
            if part.strip():
                ranged.tokens.append(part)
                ranged.spans.append((first, last))
        ranged.cutting += [mark for mark in marks if {mark.start, mark.end} & set(cuts) and mark not in ranged.cutting]
    for mark in marks:
        inside = [number for number, (start, end) in enumerate(ranged.spans) if mark.start <= start and end <= mark.end]
        if inside:
            ranged.ranges.append((mark, inside[0], inside[-1] + 1))
        else:
            ranged.invisible.append(mark)
    return ranged


def _apart(marks: Sequence[LabelledSpan], overlapping: list[LabelledSpan]) -> list[LabelledSpan]:
    """Return marks without a character in common: of those that overlap the longest, of like ones the first."""
    disjoint: list[LabelledSpan] = []
    for mark in sorted(marks, key=lambda mark: (mark.start - mark.end, mark.start)):
        if any(mark.start < before.end and before.start < mark.end for before in disjoint):
            overlapping.append(mark)
        else:
            disjoint.append(mark)
    return sorted(disjoint, key=lambda mark: mark.start)


def _seen(word: str, division: Division) -> str:
    return visible(word, division.form, division.joiners).text
