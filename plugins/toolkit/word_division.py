"""Word division: how a text becomes words as its task was trained on.

Training data comes as words, prediction gets texts. :func:`learn_division` reads off the words of the training data how
their texts were divided; the result is saved with the adapter, and :func:`divide` divides a text in the same way.
"""

from functools import lru_cache
from statistics import median
from typing import Any, Literal

import regex
from pydantic import model_validator

from adaptdock.plugins.options import Options
from adaptdock.plugins.toolkit.visible_characters import CHARACTER, Form, visible

Kind = Literal["spaces", "words", "characters"]
Span = tuple[int, int]
LETTER = rf"[[\w\p{{M}}]--[\uFE00-\uFE0F]--{CHARACTER}]"
"""A character of a word in any other script: a letter, mark or digit."""
APOSTROPHES = "'’ʼ＇"
AS_APOSTROPHE = str.maketrans(dict.fromkeys(APOSTROPHES, "'"))
ADDRESS = r"https?://\S*[\w/]|\w[\w.+-]{0,63}+@\w[\w-]*(?:\.\w[\w-]*)+"
SYMBOL = r"(?!\s)\X"
SHORT_ENDING = r"'(?:\p{L}\p{M}*){1,2}"
RUNS = {"digits": r"\p{Nd}", "Hangul": r"\p{scx:Hangul}", "letters": LETTER}
"""Kinds of characters of which each can be a word, although their scripts have spaces; each without those before it."""


class Division(Options):
    """How a text is divided into words."""

    kind: Kind = "words"
    """spaces: at white space only; words: punctuation is divided off too; characters: each character is a word."""
    characters: tuple[Literal["digits", "Hangul", "letters"], ...] = ()
    """Characters of which each is a word, beside those of scripts without spaces."""
    segmented: bool = False
    """Whether words in scripts without spaces have several characters: they are looked up in ``words``."""
    letters: str = "-.'"
    """Symbols that stay within a word between letters."""
    digits: str = "-."
    """Symbols that stay within a word between digits."""
    before: str = "@#"
    """Symbols that stay with the letters behind them."""
    after: str = ""
    """Symbols that stay with the letters in front of them."""
    repeated: str = ""
    """Symbols of which several in a row are one word."""
    endings: bool = True
    """Whether an apostrophe and one or two letters behind a word are a word (``Ada|'s``)."""
    words: tuple[str, ...] = ()
    """Words of the training data that these rules would divide, the most frequent first."""
    form: Form = "NFC"
    """The normal form of Unicode in which the words are given to the model."""
    joiners: str = ""
    """Invisible characters that stay in words, for the training data has them there."""

    @model_validator(mode="before")
    @classmethod
    def _by_kind(cls, values: Any) -> Any:
        return {"kind": values} if isinstance(values, str) else values

    def __hash__(self) -> int:
        return hash((self.kind, self.letters, self.digits, len(self.words)))  # a hash of all words takes too long

    def notes(self) -> list[str]:
        """Say in words what is unusual in it."""
        if self.kind == "spaces":
            return ["texts are divided at white space only, for the training data leaves punctuation at its words"]
        if self.kind == "characters":
            return ["each character of a text is a word"]
        notes = []
        if self.characters:
            notes.append(f"each character is a word, as in the training data: {' and '.join(self.characters)}")
        if self.segmented:
            notes.append(
                f"a text without spaces is divided by a list of {len(self.words)} words of the training data; where "
                f"that is not enough, give its words as tokens"
            )
        return notes


def divide(text: str, division: Division) -> list[tuple[Span, str]]:
    """Return for each word of a text the characters that it stands for, and the word as the model reads it.

    Invisible characters are not part of what the model reads, and words are in the division's normal form.
    """
    seen = visible(text, division.form, division.joiners)
    words: list[tuple[Span, str]] = []
    done = 0
    for match in pattern(division).finditer(seen.text.translate(AS_APOSTROPHE)):
        first, last = match.span()
        start, end = max(seen.starts[first], done), seen.ends[last - 1]
        if start < end:
            words.append(((start, end), seen.text[first:last]))
            done = end
    return words


def shown(token: str, division: Division) -> str:
    """Return a word as rules and :attr:`Division.words` see it."""
    return visible(token, division.form, division.joiners).text.translate(AS_APOSTROPHE)


@lru_cache(64)
def pattern(division: Division) -> "regex.Pattern[str]":
    """Return the pattern of the words of a text that is as :func:`shown` gives it."""
    if division.kind == "spaces":
        return regex.compile(r"\S+")
    if division.kind == "characters":
        return regex.compile(SYMBOL)
    run = f"[{LETTER}{''.join(f'--{RUNS[name]}' for name in division.characters)}]"
    inside = rf"(?:{run}|{_joint(division, run)})"
    listed = [word for word in division.words if "'" in word[:-1]]
    endings = [r"\L<endings>"] * bool(listed) + [SHORT_ENDING] * division.endings
    parts = [ADDRESS, *_listed(division, run)]
    if endings:
        parts.append(rf"{run}{inside}*?(?=(?:{'|'.join(endings)})(?!{run}))")
    if division.endings:
        parts.append(rf"(?<={run}){SHORT_ENDING}(?!{run})")
    before = f"{_any(division.before)}?" if division.before else ""
    after = rf"(?:{_any(division.after)}+(?!{run}))?" if division.after else ""
    parts.append(f"{before}{run}{inside}*+{after}")
    if division.repeated:
        parts.append(rf"(?P<symbol>{_any(division.repeated)})(?P=symbol)+(?!\p{{M}})")
    lists = {"words": division.words, "endings": listed}
    return regex.compile("|".join([*parts, SYMBOL]), flags=regex.V1, ignore_unused=True, **lists)


def _joint(division: Division, run: str) -> str:
    """Return the pattern of the symbols that stay within a word."""
    joints = []
    if division.digits:
        joints.append(rf"(?<=\p{{Nd}}){_any(division.digits)}(?=\p{{Nd}})")
    if division.letters:
        joints.append(rf"{_any(division.letters)}(?={run})(?!(?<=\p{{Nd}}.)\p{{Nd}})")
    return "|".join(joints) or r"(?!)"


def _listed(division: Division, run: str) -> list[str]:
    """Return the pattern of the words in :attr:`Division.words`, and that of what stands between two of them.

    A listed word ends neither within letters nor, where it is an abbreviation (``U.S.``), in front of some. Between two
    words of segmented scripts is a word that is not listed, unless it were longer than two usual ones.
    """
    if not division.words:
        return []
    abbreviated = rf"(?<={run}[[^'\s\p{{Sc}}]--{run}--{CHARACTER}])"
    parts = [rf"\L<words>(?!\p{{M}})(?!(?<={run}){run})(?!{abbreviated}{run})"]
    if division.segmented:
        longest = 2 * int(median([len(word) for word in division.words if len(word) > 1] or [1]))
        parts.append(rf"(?:(?!\L<words>)(?={CHARACTER})\X){{1,{longest}}}+")
    return parts


def _any(symbols: str) -> str:
    """Return a pattern of any of the symbols."""
    return "[" + "".join("\\" + symbol for symbol in symbols) + "]"
