"""Words and tokens: for tasks that label words."""

import re
from bisect import bisect_right
from collections.abc import Sequence

from adaptdock.plugins.contracts import Feature, Reading
from adaptdock.plugins.errors import BackboneError

WORD = re.compile(r"https?://\S+|[@#]\w+|\w+(?:[-_.]\w+)*|'\w+|[^\w\s]")
OVERLAP = 4
"""Windows overlap by one part in this many."""

Span = tuple[int, int]


def split_words(text: str) -> list[Span]:
    """Return the character spans of the words and punctuation marks of a text."""
    return [match.span() for match in WORD.finditer(text)]


def align(text: str, words: Sequence[Span], reading: Reading) -> list[Feature]:
    """Tokenise a text in windows and find, for each word, one token in one window.

    ``alignment`` of a feature is a list of (word, position). The position is that of the word's
    first token, or of its last where the backbone is causal. A word that lies in several windows
    belongs to the one in which it has most context. A word without a token belongs to none.
    """
    if not words:
        return []
    windows = _windows(text, reading)
    starts = [start for start, _ in words]
    owner: dict[int, tuple[int, int, int]] = {}  # word -> context, window, position
    for number, offsets in enumerate(windows["offset_mapping"]):
        for word, position in _positions(offsets, words, starts, reading.causal).items():
            context = min(position, len(offsets) - 1 - position)
            if word not in owner or context > owner[word][0]:
                owner[word] = (context, number, position)
    features = [
        Feature({name: windows[name][number] for name in reading.tokenizer.model_input_names if name in windows})
        for number in range(len(windows["input_ids"]))
    ]
    for feature in features:
        feature.alignment = []
    for word, (_, number, position) in sorted(owner.items()):
        features[number].alignment.append((word, position))
    return features


def _windows(text: str, reading: Reading) -> dict[str, list[list[int]]]:
    tokenizer = reading.tokenizer
    if not tokenizer.is_fast:
        raise BackboneError(f"{type(tokenizer).__name__} does not tell which characters a token stands for")
    room = reading.max_length - tokenizer.num_special_tokens_to_add()
    if room < OVERLAP:
        raise BackboneError(f"windows of {reading.max_length} tokens have no room for text")
    return tokenizer(  # type: ignore[no-any-return]
        [text],
        truncation=True,
        max_length=reading.max_length,
        stride=room // OVERLAP,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=True,
    )


def _positions(offsets: Sequence[Span], words: Sequence[Span], starts: Sequence[int], last: bool) -> dict[int, int]:
    """Return word -> position of its first or last token; a token belongs to the word of its last character."""
    found: dict[int, int] = {}
    for position, (start, end) in enumerate(offsets):
        if end > start:
            word = bisect_right(starts, end - 1) - 1
            if word >= 0 and start < words[word][1] and (last or word not in found):
                found[word] = position
    return found
