"""The vocabulary of fastai's language models (``itos``): a list of words, and a tokenizer by its rules.

A list is read from JSON, from text with a word per line, or from fastai's pickle of one flat list of strings.
The pickle is never loaded: its operations are read one by one, and any operation that such a list does not need is
refused.
"""

import hashlib
import json
import pickletools
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import regex

from adaptdock.backbones.recurrent.word_tokenizer import Token, WordTokenizer
from adaptdock.errors import BackboneError
from adaptdock.plugins.regular import read_regular
from adaptdock.plugins.toolkit.windowing import Span

STRINGS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"})
LISTS = frozenset({"EMPTY_LIST", "LIST"})
AROUND = frozenset({"PROTO", "FRAME", "MARK", "APPEND", "APPENDS", "STOP"})
STORES = frozenset({"MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"})
RECALLS = frozenset({"BINGET", "LONG_BINGET", "GET"})
UNKNOWN, PAD, BEGIN = ("xxunk", "_unk_"), ("xxpad", "_pad_"), ("xxbos", "_bos_")
UP, CAPITAL, REPEATED, WORD_REPEATED = "xxup", "xxmaj", "xxrep", "xxwrep"
LONGEST_RUN = 3
"""Longer runs of one character, or of one word, are written as a number."""
PART = regex.compile(
    r"\p{L}+(?=n't(?!\w))|n't(?!\w)|['’](?:s|re|ve|ll|d|m)(?!\w)|[\w\p{M}]+(?:[-_.][\w\p{M}]+)*"
    r"|([^\w\s])\1{3,}|[^\w\s]",
    regex.IGNORECASE,
)


def read_vocabulary(file: Path) -> list[str]:
    """Return the words of a vocabulary file; raise :class:`BackboneError` for anything but a list of strings."""
    try:
        blob = read_regular(file)
    except OSError as error:
        raise BackboneError(f"{file} cannot be read: {error.strerror or error}") from error
    if file.suffix == ".pkl":
        return strings_of_pickle(file, blob)
    try:
        text = blob.decode("utf-8")
        words = json.loads(text) if file.suffix == ".json" else text.removesuffix("\n").split("\n")
    except ValueError as error:
        raise BackboneError(f"{file} cannot be read as {file.suffix[1:].upper()}: {error}") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BackboneError(f"{file}: a vocabulary is one list of strings")
    return words


def strings_of_pickle(file: Path, blob: bytes) -> list[str]:
    """Return the strings of a pickled flat list, without executing it.

    Raises :class:`BackboneError` for a pickle with anything else in it.
    """
    strings: list[str] = []
    memo: dict[int, str | None] = {}
    top: str | None = None
    lists = 0
    try:
        for operation, argument, _ in pickletools.genops(blob):
            name = operation.name
            if name in STRINGS:
                top = str(argument)
                strings.append(top)
            elif name in LISTS:
                top, lists = None, lists + 1
            elif name in STORES:
                memo[len(memo) if argument is None else int(argument)] = top  # MEMOIZE has no argument: it counts
            elif name in RECALLS:
                strings.append(_recalled(memo, argument))
            elif name not in AROUND:
                raise ValueError(f"it holds {name}")
        if lists != 1:
            raise ValueError(f"it holds {lists} lists")
    except (ValueError, IndexError) as error:
        raise BackboneError(
            f"{file} is a pickle, but not of a plain list of strings ({error}), and pickles are never loaded. Where "
            f"you trust it: python -c \"import json, pickle; json.dump(list(pickle.load(open('{file.name}', 'rb'))), "
            f"open('itos.json', 'w'))\""
        ) from error
    return strings


def _recalled(memo: dict[int, str | None], argument: Any) -> str:
    word = memo.get(int(argument))
    if word is None:
        raise ValueError("it holds a list in a list")
    return word


class VocabularyTokenizer(WordTokenizer):
    """Turns words into the numbers that a list gives them, by the rules of fastai.

    Where the vocabulary has ``xxmaj`` and ``xxup``, words are read in lower case behind these marks. With ``xxrep``
    and ``xxwrep`` a long run of one character, or of one word, is written as a number. fastai divides texts by spaCy;
    here one pattern divides texts, and treats contractions as spaCy does.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.numbers = {
            word: number for number, word in reversed(list(enumerate(words)))
        }  # reversed: of repeated words the first counts
        unknown, pad, begin = (self._special(names) for names in (UNKNOWN, PAD, BEGIN))
        if unknown is None:
            raise BackboneError(f"the vocabulary has no {UNKNOWN[0]}, which stands for words that are not in it")
        self.unknown = unknown
        self.pad_token_id = unknown if pad is None else pad
        self.bos_token_id = begin
        self.before = () if begin is None else (Token(begin, special=True),)
        self.do_lower_case = CAPITAL in self.numbers

    @property
    def digest(self) -> str:
        """A hash of which word has which number."""
        return hashlib.sha256("\n".join(f"{n} {word}" for n, word in enumerate(self.words)).encode()).hexdigest()[:32]

    def __len__(self) -> int:
        return len(self.words)

    def read(self, text: str, words: Sequence[Span]) -> list[Token]:
        """Return the tokens of words, divided at punctuation and contractions; the span of a mark is empty."""
        spans = [
            (start + part.start(), start + part.end())
            for start, end in _joined(words)
            for part in PART.finditer(text[start:end])
        ]
        tokens: list[Token] = []
        for word, run in groupby(spans, key=lambda span: text[slice(*span)]):
            same = list(run)
            if len(same) > LONGEST_RUN and WORD_REPEATED in self.numbers:
                tokens += [self._mark(WORD_REPEATED, same[0]), self._mark(str(len(same)), same[0])]
                same = [(same[0][0], same[-1][1])]
            for span in same:
                tokens += self._of_word(word, span)
        return tokens

    def _of_word(self, word: str, span: Span) -> Iterator[Token]:
        if len(word) > LONGEST_RUN and len(set(word)) == 1 and REPEATED in self.numbers:
            yield self._mark(REPEATED, span)
            yield self._mark(str(len(word)), span)
            word = word[0]
        if self.do_lower_case and len(word) > 1:
            if word.isupper() and UP in self.numbers:
                yield self._mark(UP, span)
            elif word[0].isupper() and word[1:] == word[1:].lower():
                yield self._mark(CAPITAL, span)
        yield self._token(word.lower() if self.do_lower_case else word, span)

    def _mark(self, word: str, span: Span) -> Token:
        return self._token(word, (span[0], span[0]))

    def _token(self, word: str, span: Span) -> Token:
        return Token(self.numbers.get(word, self.unknown), span, word)

    def _special(self, names: Sequence[str]) -> int | None:
        return next((self.numbers[name] for name in names if name in self.numbers), None)


def _joined(words: Sequence[Span]) -> Iterator[Span]:
    """Yield spans with adjacent words joined, since contractions have division rules of their own."""
    joined: list[Span] = []
    for start, end in words:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    yield from joined
