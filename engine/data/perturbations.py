"""Alterations: ways to change a sentence's words, one at a time, that are drawn by a seeded generator.

An alteration gets words, which of them may change places with one another, and a rate; it returns a word (or None,
where it is deleted) for each. Of the n words that hold a letter or a digit about rate * n are changed, one at
least, as in EDA (Wei and Zou 2019, arXiv:1901.11196).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError, UnknownNameError, UsageError

Alteration = Callable[[Sequence[str], Sequence[Hashable], float, Random], list[str | None]]
"""Words, the kind of each, a rate and a generator -> the words, None where one is deleted."""
Others = Callable[[str], Sequence[str]]
"""A word -> those that may stand for it."""

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
STEMMERS = {
    "ar": "arabic",
    "ca": "catalan",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "lt": "lithuanian",
    "ne": "nepali",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}
"""The names that Snowball has for languages."""
EXTRA = "pip install 'adaptdock[augment]'"


def swap(words: Sequence[str], kinds: Sequence[Hashable], rate: float, random: Random) -> list[str | None]:
    """Let words change places with others of their kind."""
    swapped: list[str | None] = list(words)
    eligible = _eligible(words)
    for place in _drawn(eligible, eligible, rate, random):
        partners = [
            partner for partner in eligible if kinds[partner] == kinds[place] and swapped[partner] != swapped[place]
        ]
        if partners:
            partner = random.choice(partners)
            swapped[place], swapped[partner] = swapped[partner], swapped[place]
    return swapped


def delete(words: Sequence[str], kinds: Sequence[Hashable], rate: float, random: Random) -> list[str | None]:
    """Leave words out; one is left."""
    eligible = _eligible(words)
    deleted = set(_drawn(eligible, eligible, rate, random)[: len(eligible) - 1])
    return [None if place in deleted else word for place, word in enumerate(words)]


def typos(words: Sequence[str], kinds: Sequence[Hashable], rate: float, random: Random) -> list[str | None]:
    """Mistype words of two letters or more: a letter left out, doubled, swapped with the next, or its neighbour's."""
    eligible = _eligible(words)
    mistyped = set(_drawn([place for place in eligible if len(words[place]) > 1], eligible, rate, random))
    return [_mistyped(word, random) if place in mistyped else word for place, word in enumerate(words)]


def case(words: Sequence[str], kinds: Sequence[Hashable], rate: float, random: Random) -> list[str | None]:
    """Write words in capitals, in small letters, or with a capital."""

    def choices(word: str) -> list[str]:
        forms = (word.upper(), word.lower(), word.capitalize())
        return [form for form in dict.fromkeys(forms) if form != word]

    return _replaced(words, choices, rate, random)


def replacing(others: Others) -> Alteration:
    """Return an alteration that puts another word in a word's place, with its capital where it has one."""

    def choices(word: str) -> list[str]:
        return [
            _as_written(replacement, word)
            for replacement in others(word)
            if replacement and replacement.lower() != word.lower()
        ]

    def alter(words: Sequence[str], kinds: Sequence[Hashable], rate: float, random: Random) -> list[str | None]:
        return _replaced(words, choices, rate, random)

    return alter


# -------------------------------------------------------------------------------------- other words


def lemmas(language: str) -> Others:
    """Return what gives a word's dictionary form (simplemma).

    Raises :class:`UsageError` where the library is missing or does not know the language.
    """
    library = _imported("simplemma", "lemmatize")
    try:
        library.lemmatize("a", lang=language)
    except ValueError:
        raise UsageError(
            f"simplemma has no dictionary of the language {language!r}: give its code, such as en"
        ) from None
    return lambda word: [library.lemmatize(word, lang=language)]


def stems(language: str) -> Others:
    """Return what cuts a word to its stem (Snowball; Porter 1980, 2001).

    Raises :class:`UsageError` where the library is missing, :class:`UnknownNameError` for a language it lacks.
    """
    library = _imported("snowballstemmer", "stem")
    if language not in STEMMERS:
        raise UnknownNameError("language of stems", language, STEMMERS)
    stemmer = library.stemmer(STEMMERS[language])
    return lambda word: [stemmer.stemWord(word.lower())]


def synonyms(path: Path, single: bool) -> Others:
    """Return what gives the synonyms of a word that a file names: words of one line, divided by commas or tabs.

    With ``single`` those of several words are left out. Raises :class:`DataError` naming the line of a word alone.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file (--synonyms)")
    by_word: dict[str, dict[str, None]] = {}
    for number, line in Texts().lines(path):
        words = [word.strip() for word in line.replace("\t", ",").split(",") if word.strip()]
        if not words or line.startswith("#"):
            continue
        if len(words) < 2:
            raise DataError(
                f"{path}:{number}: a line holds two words or more that mean the same, this one {words[0]!r}"
            )
        for word in words:
            group = by_word.setdefault(word.lower(), {})
            group.update(dict.fromkeys(synonym for synonym in words if not single or len(synonym.split()) == 1))
    if not by_word:
        raise DataError(f"{path}: there are no synonyms in it")
    return lambda word: list(by_word.get(word.lower(), ()))


def wordnet(language: str, single: bool) -> Others:
    """Return what gives the synonyms of a word that WordNet names, through nltk, if its corpus is installed.

    Raises :class:`UsageError` where it is not, or for a language that is not English.
    """
    if language != "en":
        raise UsageError(f"wordnet knows English, not {language!r}: name a file of synonyms with --synonyms FILE")
    library = _imported("nltk.corpus", "wordnet").wordnet
    try:
        library.synsets("word")
    except LookupError:
        raise UsageError(
            "nltk is installed, but the corpus of WordNet is not: python -m nltk.downloader wordnet installs it; or "
            "name a file of synonyms with --augment synonyms --synonyms FILE"
        ) from None

    @cache
    def others(word: str) -> list[str]:
        names = dict.fromkeys(
            name.replace("_", " ") for meaning in library.synsets(word) for name in meaning.lemma_names()
        )
        return [name for name in names if not single or " " not in name]

    return lambda word: others(word.lower())


def _imported(module: str, name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise UsageError(f"--augment {name} needs {library}, which is not installed: {EXTRA}") from None


# ------------------------------------------------------------------------------------------ helpers


def _eligible(words: Sequence[str]) -> list[int]:
    """Return the places of words; marks without a letter or a digit are none."""
    return [place for place, word in enumerate(words) if any(map(str.isalnum, word))]


def _drawn(candidates: Sequence[int], eligible: Sequence[int], rate: float, random: Random) -> list[int]:
    """Draw as many of the candidates as the rate says of all words, one at least if there is one."""
    count = max(1, round(rate * len(eligible)))
    return random.sample(candidates, min(count, len(candidates)))


def _replaced(
    words: Sequence[str], choices: Callable[[str], Sequence[str]], rate: float, random: Random
) -> list[str | None]:
    eligible = _eligible(words)
    possible: Mapping[int, Sequence[str]] = {place: choices(words[place]) for place in eligible}
    replaced = set(_drawn([place for place, options in possible.items() if options], eligible, rate, random))
    return [random.choice(possible[place]) if place in replaced else word for place, word in enumerate(words)]


def _as_written(word: str, like: str) -> str:
    """Return a word in capitals, or with one, where another is written so."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _mistyped(word: str, random: Random) -> str:
    """Return a word with one slip; one that shows (two equal letters that are swapped do not)."""
    place = random.randrange(len(word))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    near = _neighbours(letter)
    slips = [before + after, before + letter + word[place:]]
    slips += [before + after[0] + letter + after[1:]] if after else []
    slips += [before + random.choice(near) + after] if near else []
    return random.choice([slip for slip in slips if slip != word])


def _neighbours(letter: str) -> str:
    """Return the keys beside a letter's on a QWERTY keyboard, in the same case."""
    for number, row in enumerate(KEYBOARD):
        place = row.find(letter.lower())
        if place >= 0:
            beside = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            adjacent_rows = (*KEYBOARD[max(0, number - 1) : number], *KEYBOARD[number + 1 : number + 2])
            beside += "".join(adjacent[place : place + 1] for adjacent in adjacent_rows)
            return beside.upper() if letter.isupper() else beside
    return ""
