"""Windows of sentences in which spans of words are scored: each span is read in the window with most context."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptdock.plugins.contracts import Feature


@dataclass(frozen=True)
class SpanWindow:
    """The words of a window by their numbers, and the spans that another window has with more context.

    Spans are (place of the first word in ``words``, words less one).
    """

    words: tuple[int, ...]
    elsewhere: frozenset[tuple[int, int]] = frozenset()


def span_windows(features: Sequence[Feature], lengths: int) -> list[SpanWindow]:
    """Return the window of each feature of :func:`word_windows`; ``lengths`` is the most words of a span."""
    words = [tuple(word for word, _, _ in feature.alignment) for feature in features]
    if len(features) < 2:
        return [SpanWindow(numbers) for numbers in words]
    owners: dict[tuple[int, int], tuple[int, int]] = {}  # first and last word -> tokens of context, window
    spans = [list(_spans(feature, lengths)) for feature in features]
    for number, window in enumerate(spans):
        for extent, _, context in window:
            if extent not in owners or context > owners[extent][0]:
                owners[extent] = context, number
    return [
        SpanWindow(words[number], frozenset(place for extent, place, _ in window if owners[extent][1] != number))
        for number, window in enumerate(spans)
    ]


def _spans(feature: Feature, lengths: int) -> Iterator[tuple[tuple[int, int], tuple[int, int], int]]:
    """Yield first and last word, place in the window, and tokens of context on the shorter side, of each span."""
    size = len(feature.inputs["input_ids"])
    for place, (word, first, _) in enumerate(feature.alignment):
        for more, (last_word, _, last) in enumerate(feature.alignment[place : place + lengths]):
            yield (word, last_word), (place, more), min(first, size - 1 - last)
