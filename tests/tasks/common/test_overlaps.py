"""Overlapping spans: kinds, choices, layers and brackets, beside a check of each pair."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from adaptdock.tasks.common.overlaps import Extent, bracketed, kind_of_overlap, layers, without_overlaps

EXTENTS = st.lists(
    st.builds(
        lambda start, size, label: Extent(start, start + size, label),
        st.integers(0, 8),
        st.integers(1, 4),
        st.sampled_from("AB"),
    ),
    max_size=7,
    unique=True,
)
TEXT = "The mayor of Porto spoke"
MAYOR, PORTO, CROSSING = Extent(4, 18, "ROLE"), Extent(13, 18, "LOC"), Extent(13, 24, "X")


def meet(first: Extent, second: Extent) -> bool:
    return bool({*range(first.start, first.end)} & {*range(second.start, second.end)})


@given(EXTENTS)
def test_what_remains_has_no_more_overlap_than_is_allowed(extents: list[Extent]) -> None:
    assert without_overlaps(extents, "any") == list(range(len(extents)))
    flat = [extents[number] for number in without_overlaps(extents, "none")]
    assert not any(meet(*pair) for pair in combinations(flat, 2))
    assert kind_of_overlap([extents[number] for number in without_overlaps(extents, "nested")]) != "any"
    assert extents == [] or without_overlaps(extents, "none")[0] == 0


@given(EXTENTS)
def test_a_layer_has_no_overlaps_and_each_span_is_in_one_layer(extents: list[Extent]) -> None:
    divided = layers(extents)
    assert sorted(number for layer in divided for number in layer) == list(range(len(extents)))
    assert not any(meet(extents[a], extents[b]) for layer in divided for a, b in combinations(layer, 2))


def test_the_kinds_of_overlap() -> None:
    assert kind_of_overlap([Extent(0, 2, "A"), Extent(2, 3, "A")]) == "none"
    assert kind_of_overlap([MAYOR, PORTO]) == "nested"
    assert kind_of_overlap([PORTO, Extent(13, 18, "ORG")]) == "nested"
    assert kind_of_overlap([MAYOR, CROSSING]) == "any"


def test_spans_are_written_in_brackets_and_crossing_ones_behind_the_text() -> None:
    assert bracketed(TEXT, [PORTO, MAYOR]) == "The [mayor of [Porto|LOC]|ROLE] spoke"
    assert bracketed(TEXT, [CROSSING, MAYOR]) == "The [mayor of Porto|ROLE] spoke (Porto spoke|X)"
    assert bracketed(TEXT, []) == TEXT


@given(EXTENTS)
def test_brackets_lose_nothing_of_the_text(extents: list[Extent]) -> None:
    text = "abcdefghijkl"
    written = bracketed(text, extents).partition(" (")[0]
    for label in "AB":
        written = written.replace(f"|{label}]", "")
    assert written.replace("[", "") == text
