"""Word division: dividing a text into words like those of the training data.

Training data has words, prediction gets texts. :func:`learn_division` infers the division of the texts from the words
of the training data. It is saved with the adapter, and :func:`divide` divides a text in the same way.
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
# The local part of a mail address is bounded and possessive: no backtracking on long words.
ADDRESS = r"https?://\S*[\w/]|\w[\w.+-]{0,63}+@\w[\w-]*(?:\.\w[\w-]*)+"
SYMBOL = r"(?!\s)\X"
SHORT_ENDING = r"'(?:\p{L}\p{M}*){1,2}"
RUNS = {"digits": r"\p{Nd}", "Hangul": r"\p{scx:Hangul}", "letters": LETTER}
"""Kinds of characters that can be single words although their scripts have spaces, in order of precedence."""


class Division(Options):
    """The rules of dividing a text into words."""

    kind: Kind = "words"
    """spaces: at white space only; words: also at punctuation; characters: each character is a word."""
    characters: tuple[Literal["digits", "Hangul", "letters"], ...] = ()
    """Kinds of characters that are single words, in addition to scripts without spaces."""
    segmented: bool = False
    """Whether words in scripts without spaces have several characters; they are looked up in ``words``."""
    letters: str = "-.'"
    """Symbols that belong to a word between letters."""
    digits: str = "-."
    """Symbols that belong to a word between digits."""
    before: str = "@#"
    """Symbols that belong to the letters after them."""
    after: str = ""
    """Symbols that belong to the letters before them."""
    repeated: str = ""
    """Symbols that form one word when repeated."""
    endings: bool = True
    """Whether an apostrophe and one or two letters after a word are a separate word (``Ada|'s``)."""
    words: tuple[str, ...] = ()
    """Words of the training data that the other rules would divide, the most frequent first."""
    form: Form = "NFC"
    """The Unicode normal form of the words for the model."""
    joiners: str = ""
    """Invisible characters to keep in words, as in the training data."""

    @model_validator(mode="before")
    @classmethod
    def _by_kind(cls, values: Any) -> Any:
        return {"kind": values} if isinstance(values, str) else values

    def __hash__(self) -> int:
        return hash((self.kind, self.letters, self.digits, len(self.words)))  # hashing all words would be too slow

    def notes(self) -> list[str]:
        """Return notes on unusual rules."""
        if self.kind == "spaces":
            return ["texts are divided at white space only, as the training data leaves punctuation at its words"]
        if self.kind == "characters":
            return ["each character of a text is a word"]
        notes = []
        if self.characters:
            notes.append(f"each character is a word, as in the training data: {' and '.join(self.characters)}")
        if self.segmented:
            notes.append(
                f"a text without spaces is divided by a list of {len(self.words)} words of the training data; if "
                f"that is not enough, give its words as tokens"
            )
        return notes


def divide(text: str, division: Division) -> list[tuple[Span, str]]:
    """Return the span of each word in a text, and the word in the form for the model.

    This form is without invisible characters, and in the division's normal form.
    """
    visible_text = visible(text, division.form, division.joiners)
    words: list[tuple[Span, str]] = []
    previous_end = 0
    for match in pattern(division).finditer(visible_text.text.translate(AS_APOSTROPHE)):
        first, last = match.span()
        start, end = max(visible_text.starts[first], previous_end), visible_text.ends[last - 1]
        if start < end:
            words.append(((start, end), visible_text.text[first:last]))
            previous_end = end
    return words


def shown(token: str, division: Division) -> str:
    """Return a word in the form that the rules and :attr:`Division.words` use."""
    return visible(token, division.form, division.joiners).text.translate(AS_APOSTROPHE)


@lru_cache(64)
def pattern(division: Division) -> "regex.Pattern[str]":
    """Return the pattern of words, for texts in the form of :func:`shown`."""
    if division.kind == "spaces":
        return regex.compile(r"\S+")
    if division.kind == "characters":
        return regex.compile(SYMBOL)
    run = f"[{LETTER}{''.join(f'--{RUNS[name]}' for name in division.characters)}]"
    inside = rf"(?:{run}|{_joint(division, run)})"
    listed = [word for word in division.words if "'" in word[:-1]]
    endings = [r"\L<endings>"] * bool(listed) + [SHORT_ENDING] * division.endings
    # The first alternative that matches wins: listed words precede the rules, single symbols come last.
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
    """Return the pattern of the symbols that belong to a word."""
    joints = []
    if division.digits:
        joints.append(rf"(?<=\p{{Nd}}){_any(division.digits)}(?=\p{{Nd}})")
    if division.letters:
        joints.append(rf"{_any(division.letters)}(?={run})(?!(?<=\p{{Nd}}.)\p{{Nd}})")
    return "|".join(joints) or r"(?!)"


def _listed(division: Division, run: str) -> list[str]:
    """Return the pattern of the words in :attr:`Division.words`, and the pattern of unlisted words between them.

    A listed word does not end within letters; an abbreviation (``U.S.``) does not end before letters. In segmented
    scripts, the characters between two listed words are one word, of at most twice the median length.
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
