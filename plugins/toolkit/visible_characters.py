"""The visible characters of a text, with their spans in the original text."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import regex

Form = Literal["", "NFC", "NFD"]
SCRIPTS = ("Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar", "Yi", "Tai_Tham", "Tai_Viet")
"""Scripts without spaces between words."""
CHARACTER = "[[" + "".join(rf"\p{{scx:{script}}}" for script in SCRIPTS) + r"]&&[\p{L}\p{M}\p{N}]]"
"""A character of these scripts."""
INVISIBLE = regex.compile(r"[[\p{Cf}\p{Cc}\p{DI}]--\p{PCM}--\s--[\uFE0E\uFE0F]]", flags=regex.V1)
"""Format and control characters: soft hyphens, zero-width and bidirectional characters, byte-order marks.

The two variation selectors of the text and emoji form of a character are not included.
"""
EMOJI_JOINER = regex.compile(r"(?<=[\p{Extended_Pictographic}\p{EMod}\uFE0F])\u200D(?=\p{Extended_Pictographic})")
WORD_BREAK = regex.compile(rf"(?<={CHARACTER})\u200B(?={CHARACTER})", flags=regex.V1)
"""A zero-width space between two characters of scripts without spaces, which divides words."""
CLUSTER = regex.compile(r"\X")


@dataclass(frozen=True)
class Visible:
    """A text without invisible characters; the span of character n in the original is ``starts[n]`` to ``ends[n]``."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


def visible(text: str, form: Form = "", joiners: str = "") -> Visible:
    """Return the visible characters of a text, in a normal form of Unicode.

    ``joiners`` are invisible characters to keep; joiners within emoji are always kept. A zero-width space that divides
    words becomes a space.
    """
    if text.isascii() and text.isprintable():
        return Visible(text, range(len(text)), range(1, len(text) + 1))
    shown, places = text, list(range(len(text)))
    if INVISIBLE.search(text):
        pairs = list(_shown(text, joiners))
        shown, places = "".join(character for character, _ in pairs), [place for _, place in pairs]
    if not form or unicodedata.is_normalized(form, shown):
        return Visible(shown, places, [place + 1 for place in places])
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for match in CLUSTER.finditer(shown):
        first, last = match.span()
        cluster = unicodedata.normalize(form, match[0])
        same = cluster == match[0]
        parts.append(cluster)
        starts += places[first:last] if same else [places[first]] * len(cluster)
        ends += [place + 1 for place in places[first:last]] if same else [places[last - 1] + 1] * len(cluster)
    return Visible("".join(parts), starts, ends)


def _shown(text: str, joiners: str) -> Iterator[tuple[str, int]]:
    """Yield the visible characters with their places."""
    joiner_places = {match.start() for match in EMOJI_JOINER.finditer(text)}
    breaks = {match.start() for match in WORD_BREAK.finditer(text)}
    for place, character in enumerate(text):
        if place in breaks:
            yield " ", place
        elif character in joiners or place in joiner_places or not INVISIBLE.match(character):
            yield character, place
