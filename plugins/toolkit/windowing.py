"""Words, tokens and windows, for tasks that label words and tasks that label texts."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import regex

from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Feature, Reading

LETTER = r"[\w\p{M}]"  # with combining marks, which belong to words in many scripts
WORD = regex.compile(rf"https?://\S+|[@#]{LETTER}+|{LETTER}+(?:[-_.]{LETTER}+)*|'{LETTER}+|[^\w\s]")
OVERLAP = 4
"""Successive windows overlap by a window's room divided by this number."""
FEWEST_TOKENS = OVERLAP
"""Fewest tokens of a text in a window: successive windows overlap by one at least."""

Span = tuple[int, int]


def split_words(text: str) -> list[Span]:
    """Return the character spans of the words and punctuation marks of a text."""
    return [match.span() for match in WORD.finditer(text)]


def joined(words: Sequence[str]) -> tuple[str, list[Span]]:
    """Return words joined by spaces, and their spans in this text."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), spans


def align(text: str, words: Sequence[Span], reading: Reading) -> list[Feature]:
    """Tokenise a text in windows, and select one token in one window for each word.

    ``alignment`` of a feature is a list of (word, position). The position is that of the word's first token, or of its
    last token for a causal backbone. Of several windows with a word, one with the whole word is selected, and among
    these the window with most context around it. A word without tokens has no position.
    """
    if not words:
        return []
    windows = _tokenised(text, None, reading, words=words)
    starts = [start for start, _ in words]
    owner: dict[int, tuple[tuple[bool, int], int, int]] = {}  # word -> worth, window, position
    for number, offsets in enumerate(windows["offset_mapping"]):
        for word, (first, last) in _extents(offsets, words, starts).items():
            whole = offsets[first][0] <= words[word][0] and offsets[last][1] >= words[word][1]
            worth = whole, min(first, len(offsets) - 1 - last)
            if word not in owner or worth > owner[word][0]:
                owner[word] = (worth, number, last if reading.causal else first)
    features = _features(windows, reading)
    for feature in features:
        feature.alignment = []
    for word, (_, number, position) in sorted(owner.items()):
        features[number].alignment.append((word, position))
    return features


def word_windows(text: str, words: Sequence[Span], reading: Reading) -> list[Feature]:
    """Tokenise a text in windows with their whole words, for spans of words.

    ``alignment`` of a feature is a list of (word, position of its first token, position of its last token). A word that
    the border of a window cuts is left out there; a word without tokens is in no window.
    """
    if not words:
        return []
    encoding = _tokenised(text, None, reading, words=words)
    starts = [start for start, _ in words]
    features = _features(encoding, reading)
    for number, (feature, offsets) in enumerate(zip(features, encoding["offset_mapping"], strict=True)):
        extents = sorted(_extents(offsets, words, starts).items())
        if extents and number > 0 and offsets[extents[0][1][0]][0] > words[extents[0][0]][0]:
            del extents[0]
        if extents and number < len(features) - 1 and offsets[extents[-1][1][1]][1] < words[extents[-1][0]][1]:
            del extents[-1]
        feature.alignment = [(word, first, last) for word, (first, last) in extents]
    return features


def windows(text: str, second: str | None, reading: Reading) -> list[Feature]:
    """Tokenise a text, or a pair, in overlapping windows; each window has the whole first text of a pair.

    A first text longer than half a window is cut to that half, and ``cut`` of the first feature counts the tokens.
    """
    cut = 0
    if second is not None:
        text, cut = halved(text, reading)
    features = _features(_tokenised(text, second, reading), reading)
    features[0].cut = cut
    return features


def located_windows(first: str, second: str, reading: Reading, overlap: int) -> list[Feature]:
    """Tokenise a pair as :func:`windows` does, with the span of each token in the second text.

    ``alignment`` of a feature has the span of each position, or None for a token outside the second text. Successive
    windows share ``overlap`` tokens of it, at most half of a window's.
    """
    first, cut = halved(first, reading)
    encoding = _tokenised(first, second, reading, overlap)
    features = _features(encoding, reading)
    for number, feature in enumerate(features):
        spans = zip(encoding["offset_mapping"][number], encoding.sequence_ids(number), strict=True)
        feature.alignment = [span if owner == 1 and span[0] < span[1] else None for span, owner in spans]
    features[0].cut = cut
    return features


def halved(text: str, reading: Reading) -> tuple[str, int]:
    """Return a text cut to at most half a window, and the number of cut tokens."""
    half = reading.max_length // 2
    encoding = reading.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if len(encoding["input_ids"]) <= half:
        return text, 0
    return text[: encoding["offset_mapping"][half - 1][1]], len(encoding["input_ids"]) - half


def _features(encoding: Any, reading: Reading) -> list[Feature]:
    return [
        Feature({name: encoding[name][number] for name in reading.tokenizer.model_input_names if name in encoding})
        for number in range(len(encoding["input_ids"]))
    ]


def _tokenised(
    text: str,
    second: str | None,
    reading: Reading,
    overlap: int | None = None,
    words: Sequence[Span] | None = None,
) -> Any:
    tokenizer = reading.tokenizer
    if not tokenizer.is_fast:
        raise BackboneError(f"{type(tokenizer).__name__} does not report the characters of a token")
    room = reading.max_length - tokenizer.num_special_tokens_to_add(pair=second is not None)
    if room < FEWEST_TOKENS:
        raise BackboneError(f"windows of {reading.max_length} tokens have no room for text")
    if second is not None:
        room //= 2  # the first text takes at most half of the window
    extra = {} if words is None or not getattr(tokenizer, "takes_words", False) else {"words": words}
    return tokenizer(
        [text],
        None if second is None else [second],
        truncation=True if second is None else "only_second",
        max_length=reading.max_length,
        stride=room // OVERLAP if overlap is None else min(overlap, room // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=True,
        **extra,
    )


def _extents(offsets: Sequence[Span], words: Sequence[Span], starts: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return word -> positions of its first and last token; a token belongs to the word of its last character."""
    extents: dict[int, tuple[int, int]] = {}
    for position, (start, end) in enumerate(offsets):
        if end > start:
            word = bisect_right(starts, end - 1) - 1
            if word >= 0 and start < words[word][1]:
                extents[word] = (extents[word][0] if word in extents else position, position)
    return extents
