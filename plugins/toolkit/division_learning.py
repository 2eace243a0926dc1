"""Learning the word division of training data from its words.

The spaces between the words are unknown. A symbol within a word was certainly not divided off, but a symbol that is a
word may have had spaces around it. So symbols within words count more.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any
from unicodedata import is_normalized

import regex

from adaptdock.plugins.toolkit.stored import stored
from adaptdock.plugins.toolkit.visible_characters import CHARACTER, CLUSTER, Form
from adaptdock.plugins.toolkit.word_division import LETTER, RUNS, Division, Kind, pattern, shown

LONGEST_LIST = 20_000
"""Most words that a division lists."""
SURE = 3
"""The weight of a symbol within a word, against a symbol that is a word."""
SENTENCES_WITH_SPACES = 0.2
"""Least share of sentences with punctuation at a word, for texts that were divided at spaces only."""
PLAIN = regex.compile(f"{LETTER}+", flags=regex.V1)
A_LETTER, A_CHARACTER = regex.compile(LETTER, flags=regex.V1), regex.compile(CHARACTER, flags=regex.V1)
KINDS = {
    name: regex.compile(rf"(?:(?={characters})\X)+", flags=regex.V1)
    for name, characters in {"unspaced": CHARACTER, **RUNS}.items()
}
PUNCTUATED = regex.compile(rf"{LETTER}['\")\]]?[,;!?]|{LETTER}[.]", flags=regex.V1)
PUNCTUATION = frozenset(",;:!?.")
JOINERS = "\u200c\u200d"
LETTERS, DIGITS, BEFORE, AFTER, REPEATED = "letters", "digits", "before", "after", "repeated"
Sentences = Sequence[Sequence[str]]


def learn_division(sentences: Sentences, kind: Kind | None = None) -> Division:
    """Return the division of the texts of tokenised sentences; ``kind`` is learnt too unless given."""
    form = _form(sentences)
    joiners = "".join(joiner for joiner in JOINERS if any(joiner in token for token in _all(sentences)))
    base = Division(form=form, joiners=joiners)
    read = stored([shown(token, base) for token in tokens] for tokens in sentences)
    kind = kind or ("spaces" if _at_spaces(read) else "words")
    if kind != "words":
        return Division(kind=kind, form=form, joiners=joiners)
    learnt = {"form": form, "joiners": joiners, **_characters(read), **_symbols(read, base)}
    return Division(**learnt, words=_listed(read, Division(**learnt)))


def _all(sentences: Sentences) -> Iterable[str]:
    return (token for tokens in sentences for token in tokens)


def _form(sentences: Sentences) -> Form:
    """Return the Unicode normal form of all words; empty if they have none in common."""
    if all(is_normalized("NFC", token) for token in _all(sentences)):
        return "NFC"
    return "NFD" if all(is_normalized("NFD", token) for token in _all(sentences)) else ""


def _at_spaces(sentences: Sentences) -> bool:
    """Return whether punctuation mostly belongs to the word before it."""
    attached = alone = 0
    for tokens in sentences:
        for token in tokens[:-1]:
            attached += bool(token[-1:] != "." and PUNCTUATED.match(token, max(0, len(token) - 2)))
            alone += token in PUNCTUATION and token != "."
        if tokens:
            attached += bool(PUNCTUATED.match(tokens[-1], max(0, len(tokens[-1]) - 2)))
            alone += tokens[-1] in PUNCTUATION
    return attached > alone and attached >= SENTENCES_WITH_SPACES * len(sentences)


def _characters(sentences: Sentences) -> dict[str, Any]:
    """Return the kinds of characters that are single words, and whether unspaced scripts are segmented."""
    single: Counter[str] = Counter()
    several: Counter[str] = Counter()
    for tokens in sentences:
        kinds = [_kind(token) for token in tokens]
        several.update(kind for kind, long in kinds if long)
        single.update(kind for (kind, long), after in pairwise(kinds) if not long and after == (kind, False))
    apart = tuple(name for name in RUNS if single[name] > several[name])
    return {"characters": apart, "segmented": several["unspaced"] > single["unspaced"]}


def _kind(token: str) -> tuple[str, bool]:
    """Return the kind of a token's first character, and whether several of the kind begin it."""
    for name, several in KINDS.items():
        match = several.match(token)
        if match:
            return name, len(CLUSTER.findall(match[0])) > 1
    return "", False


def _symbols(sentences: Sentences, base: Division) -> dict[str, Any]:
    """Return the symbols within words, by place; symbols that the data lacks are those of the base."""
    joined: Counter[tuple[str, str]] = Counter()
    apart: Counter[tuple[str, str]] = Counter()
    for tokens in sentences:
        for number, token in enumerate(tokens):
            before, after = tokens[number - 1] if number else "", tokens[number + 1] if number + 1 < len(tokens) else ""
            if len(token) == 1 and not token.isspace() and not _in_word(token):
                apart.update(_places(before[-1:], token, after[:1]))
                apart[REPEATED, token] += token == before
            else:
                joined.update(_within(token))
    learnt: dict[str, Any] = {}
    for place in (LETTERS, DIGITS, BEFORE, AFTER, REPEATED):
        weight = SURE if place in (LETTERS, DIGITS) else 1
        observed = {symbol for at, symbol in joined | apart if at == place}
        symbols = {symbol for symbol in observed if joined[place, symbol] * weight > apart[place, symbol]}
        learnt[place] = "".join(sorted(symbols | (set(getattr(base, place)) - observed)))
    # Such apostrophes belong to "'s" and "l'", and full stops to "Mr.", which are listed words.
    learnt[BEFORE] = learnt[BEFORE].replace("'", "")
    learnt[AFTER] = "".join(symbol for symbol in learnt[AFTER] if symbol != "'" and symbol not in PUNCTUATION)
    return {**learnt, "endings": not any("'" in token for token in _all(sentences))}


def _in_word(character: str) -> bool:
    return bool(A_LETTER.match(character) or A_CHARACTER.match(character))


def _places(before: str, symbol: str, after: str) -> list[tuple[str, str]]:
    """Return the places of a symbol between two characters, of which each may be missing."""
    after_letter, before_letter = bool(A_LETTER.match(before)), bool(A_LETTER.match(after))
    places = [(BEFORE, symbol)] * before_letter + [(AFTER, symbol)] * after_letter
    if after_letter and before_letter:
        places.append((DIGITS if before.isdecimal() and after.isdecimal() else LETTERS, symbol))
    return places


def _within(token: str) -> Iterable[tuple[str, str]]:
    """Yield the places of the symbols in a word."""
    if PLAIN.fullmatch(token):
        return
    if len(token) > 1 and len(set(token)) == 1 and not _in_word(token[0]):
        yield REPEATED, token[0]
        return
    last = len(token) - 1
    for number, character in enumerate(token):
        if _in_word(character) or character.isspace():
            continue
        before, after = token[number - 1] if number else "", token[number + 1] if number < last else ""
        places = _places(before, character, after)
        if number in (0, last):
            yield from places
        else:
            yield from (place for place in places if place[0] in (LETTERS, DIGITS))


def _listed(sentences: Sentences, rules: Division) -> tuple[str, ...]:
    """Return the words for the list, the most frequent first.

    They are words that the rules would divide, endings such as ``n't``, and all words of segmented scripts.
    """
    find, plain, endings = pattern(rules), not rules.characters, _endings(sentences)
    words = [
        token
        for token, _ in Counter(_all(sentences)).most_common()
        if token.strip() and not (plain and PLAIN.fullmatch(token))
        if token in endings
        or (rules.segmented and A_CHARACTER.match(token))
        or [match[0] for match in find.finditer(token)] != [token]
    ]
    return tuple(words[:LONGEST_LIST])


def _endings(sentences: Sentences) -> set[str]:
    """Return the words with an apostrophe that occur several times, and only after letters."""
    behind: Counter[str] = Counter()
    elsewhere: set[str] = set()
    for tokens in sentences:
        for before, token in pairwise(["", *tokens]):
            if "'" in token[1:-1]:
                behind[token] += 1
                if not A_LETTER.match(before[-1:]):
                    elsewhere.add(token)
    return {token for token, count in behind.items() if count > 1} - elsewhere
