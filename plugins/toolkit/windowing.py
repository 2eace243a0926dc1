"""Words, tokens and windows: for tasks that label words, and those that label texts."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import regex

from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Feature, Reading

LETTER = r"[\w\p{M}]"  # with combining marks, which are parts of words in many scripts
WORD = regex.compile(rf"https?://\S+|[@#]{LETTER}+|{LETTER}+(?:[-_.]{LETTER}+)*|'{LETTER}+|[^\w\s]")
OVERLAP = 4
"""Windows overlap by one part in this many."""

Span = tuple[int, int]


def split_words(text: str) -> list[Span]:
    """Return the character spans of the words and punctuation marks of a text."""
    return [match.span() for match in WORD.finditer(text)]


def joined(words: Sequence[str]) -> tuple[str, list[Span]]:
    """Return words as one text, one space apart, and their spans in it."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), spans


def align(text: str, words: Sequence[Span], reading: Reading) -> list[Feature]:
    """Tokenise a text in windows and find, for each word, one token in one window.

    ``alignment`` of a feature is a list of (word, position). The position is that of the word's
    first token, or of its last where the backbone is causal. A word that lies in several windows
    belongs to one that holds all of it, and among those to the one in which it has most context. A
    word without a token belongs to none.
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


def windows(text: str, second: str | None, reading: Reading) -> list[Feature]:
    """Tokenise a text, or a pair, in overlapping windows; of a pair the first is whole in each of them.

    Where the first text of a pair leaves less than half of a window for the second, it is cut to that half, and
    ``cut`` of the first feature counts the tokens.
    """
    cut = 0
    if second is not None:
        text, cut = _halved(text, reading)
    features = _features(_tokenised(text, second, reading), reading)
    features[0].cut = cut
    return features


def located_windows(first: str, second: str, reading: Reading, overlap: int) -> list[Feature]:
    """Tokenise a pair as :func:`windows` does, and tell which characters of the second text each token stands for.

    ``alignment`` of a feature has for each position their span, or None where the token is not of the second text.
    Two windows have ``overlap`` of its tokens in common, or half of a window's where that is less.
    """
    first, cut = _halved(first, reading)
    found = _tokenised(first, second, reading, overlap)
    features = _features(found, reading)
    for number, feature in enumerate(features):
        spans = zip(found["offset_mapping"][number], found.sequence_ids(number), strict=True)
        feature.alignment = [span if owner == 1 and span[0] < span[1] else None for span, owner in spans]
    features[0].cut = cut
    return features


def _halved(text: str, reading: Reading) -> tuple[str, int]:
    """Return a text, cut to half of a window where it is longer, and the number of tokens that are cut off."""
    half = reading.max_length // 2
    found = reading.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if len(found["input_ids"]) <= half:
        return text, 0
    return text[: found["offset_mapping"][half - 1][1]], len(found["input_ids"]) - half


def _features(found: Any, reading: Reading) -> list[Feature]:
    return [
        Feature({name: found[name][number] for name in reading.tokenizer.model_input_names if name in found})
        for number in range(len(found["input_ids"]))
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
        raise BackboneError(f"{type(tokenizer).__name__} does not tell which characters a token stands for")
    room = reading.max_length - tokenizer.num_special_tokens_to_add(pair=second is not None)
    if room < OVERLAP:
        raise BackboneError(f"windows of {reading.max_length} tokens have no room for text")
    if second is not None:
        room //= 2
    known = {} if words is None or not getattr(tokenizer, "takes_words", False) else {"words": words}
    return tokenizer(
        [text],
        None if second is None else [second],
        truncation=True if second is None else "only_second",
        max_length=reading.max_length,
        stride=room // OVERLAP if overlap is None else min(overlap, room // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=True,
        **known,
    )


def _extents(offsets: Sequence[Span], words: Sequence[Span], starts: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return word -> positions of its first and last token; a token is of the word of its last character."""
    found: dict[int, tuple[int, int]] = {}
    for position, (start, end) in enumerate(offsets):
        if end > start:
            word = bisect_right(starts, end - 1) - 1
            if word >= 0 and start < words[word][1]:
                found[word] = (found[word][0] if word in found else position, position)
    return found
