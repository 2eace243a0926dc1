"""Spans that overlap: which kind of overlap there is, the best ones without it, and their brackets in a text."""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

Overlap = Literal["none", "nested", "any"]


class Extent(NamedTuple):
    """A labelled part of a text or sentence; ``end`` is exclusive."""

    start: int
    end: int
    label: str


def kind_of_overlap(extents: Sequence[Extent]) -> Overlap:
    """Return whether no two spans overlap, one of two contains the other, or two cross each other.

    Spans of the same extent with two labels count as nested.
    """
    pairs = list(combinations(extents, 2))
    if any(_cross(*pair) for pair in pairs):
        return "any"
    return "nested" if any(_meet(*pair) for pair in pairs) else "none"


def without_overlaps(extents: Sequence[Extent], allowed: Overlap) -> list[int]:
    """Return the numbers of the remaining spans, in their order, if each excludes later spans that overlap with it.

    With ``nested`` a span excludes only spans that cross it.
    """
    remaining: list[int] = []
    taken: set[int] = set()
    for number, extent in enumerate(extents):
        if allowed == "none":
            fits = taken.isdisjoint(range(extent.start, extent.end))
            taken.update(range(extent.start, extent.end) if fits else ())
        else:
            fits = allowed == "any" or not any(_cross(extent, extents[earlier]) for earlier in remaining)
        if fits:
            remaining.append(number)
    return remaining


def layers(extents: Sequence[Extent]) -> list[list[int]]:
    """Return the numbers of spans in layers without overlaps, the longest spans in the first layer with room."""
    divided: list[list[int]] = []
    for number in sorted(range(len(extents)), key=lambda number: extents[number].start - extents[number].end):
        candidates = (layer for layer in divided if _has_room(extents[number], [extents[place] for place in layer]))
        layer = next(candidates, None)
        if layer is None:
            divided.append([number])
        else:
            layer.append(number)
    return divided


def bracketed(text: str, extents: Sequence[Extent]) -> str:
    """Return a text with its spans in brackets: ``[mayor of [Porto|LOC]|ROLE]``; crossing spans come behind.

    A span that crosses another is written as ``(text|label)``.
    """
    ordered = sorted(extents, key=lambda extent: (extent.start - extent.end, extent.start))
    inside = [ordered[number] for number in without_overlaps(ordered, "nested")]
    crossing = [extent for extent in ordered if extent not in inside]
    opening = sorted(inside, key=lambda extent: (extent.start, -extent.end))
    parts: list[str] = []
    open_extents: list[Extent] = []
    position = 0

    def close_until(place: int) -> None:
        nonlocal position
        while open_extents and open_extents[-1].end <= place:
            extent = open_extents.pop()
            parts.append(f"{text[position : extent.end]}|{extent.label}]")
            position = extent.end

    for extent in opening:
        close_until(extent.start)
        parts.append(f"{text[position : extent.start]}[")
        position = extent.start
        open_extents.append(extent)
    close_until(len(text))
    listed = [f"({text[extent.start : extent.end]}|{extent.label})" for extent in crossing]
    return " ".join(["".join([*parts, text[position:]]), *listed])


def _meet(first: Extent, second: Extent) -> bool:
    return first.start < second.end and second.start < first.end


def _cross(first: Extent, second: Extent) -> bool:
    """Return whether two spans overlap, and neither contains the other."""
    is_inside = first.start <= second.start and second.end <= first.end
    is_around = second.start <= first.start and first.end <= second.end
    return _meet(first, second) and not is_inside and not is_around


def _has_room(extent: Extent, layer: Sequence[Extent]) -> bool:
    return not any(_meet(extent, neighbour) for neighbour in layer)
