"""How a tokenizer divides the words of each script: pieces, and unknown pieces."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import regex

from adaptdock.plugins.toolkit.visible_characters import CHARACTER

LETTERS = regex.compile(r"[\p{L}\p{M}]+")
WITHOUT_SPACES = regex.compile(f"{CHARACTER}+", flags=regex.V1)
PIECES, PIECES_WITHOUT_SPACES = 0.6, 1.5
"""Pieces for each character above which a script is taken apart: with spaces between words, and without."""
UNKNOWN = 0.05
"""Share of unknown pieces from which the tokenizer does not fit a script."""
FEWEST = 20
"""Characters of a script below which nothing is said about it."""


@dataclass(frozen=True)
class ScriptCoverage:
    """The words of a script (runs of its letters), their characters, pieces, and unknown pieces."""

    words: int
    characters: int
    pieces: int
    unknown: int
    has_spaces: bool

    @property
    def taken_apart(self) -> bool:
        """Whether the pieces are so short, or so many are unknown, that little is left of the words."""
        limit = PIECES if self.has_spaces else PIECES_WITHOUT_SPACES
        is_divided = self.pieces > limit * self.characters or self.unknown > UNKNOWN * self.pieces
        return self.characters >= FEWEST and is_divided

    def describe(self) -> str:
        """Return the counts as one line."""
        return (
            f"{self.words} words, {self.pieces / self.words:.1f} pieces a word, "
            f"{self.pieces / self.characters:.2f} a character, {self.unknown / max(1, self.pieces):.1%} unknown"
        )


def script_coverage(texts: Iterable[str], tokenizer: Any) -> dict[str, ScriptCoverage]:
    """Return the coverage of each script in the texts, the most frequent script first.

    Scripts are the first word in the Unicode names of letters: LATIN, CYRILLIC, CJK.
    """
    counts = Counter(word for text in texts for word in _words(text))
    words = list(counts)
    encoded = tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
    unknown_id = getattr(tokenizer, "unk_token_id", None)
    totals: dict[str, tuple[int, int, int, int]] = {}
    has_spaces: dict[str, bool] = {}
    for word, ids in zip(words, encoded, strict=True):
        unknown = ids.count(unknown_id) if unknown_id is not None else 0
        name, count = _script(word[0]), counts[word]
        number, characters, pieces, unknown_pieces = totals.get(name, (0, 0, 0, 0))
        totals[name] = (
            number + count,
            characters + count * len(word),
            pieces + count * len(ids),
            unknown_pieces + count * unknown,
        )
        has_spaces.setdefault(name, WITHOUT_SPACES.match(word) is None)
    ordered = sorted(totals, key=lambda name: -totals[name][1])
    return {name: ScriptCoverage(*totals[name], has_spaces=has_spaces[name]) for name in ordered}


def _words(text: str) -> Iterable[str]:
    """Yield runs of letters of one script."""
    for match in LETTERS.finditer(text):
        run, start = match[0], 0
        for place in range(1, len(run)):
            is_mark = unicodedata.category(run[place])[0] == "M"
            if not is_mark and _script(run[place]) != _script(run[start]):
                yield run[start:place]
                start = place
        yield run[start:]


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNNAMED").split()[0].split("-")[0]
