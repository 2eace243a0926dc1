"""The common base of the tokenizers of recurrent models: one or a few tokens per word, with their place in the text.

The tokenizers offer the part of the interface of transformers' fast tokenizers that the tasks use. In addition they
take the words of a text (``words``), and read each word as given, however they would divide the text themselves.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from adaptdock.plugins.toolkit.windowing import Span, split_words


@dataclass(frozen=True)
class Token:
    """A token: its number, its span of characters in the text, its text, whether it is a special token."""

    number: int
    span: Span = (0, 0)
    text: str = ""
    special: bool = False


class Encoding(dict[str, list[Any]]):
    """The lists of one or several windows by name; ``owners`` has the number of the text of each position."""

    owners: list[list[int | None]]

    def sequence_ids(self, number: int = 0) -> list[int | None]:
        """Return, for each position of a window, 0 or 1 for the first or second text, None for special tokens."""
        return self.owners[number]


class WordTokenizer(ABC):
    """Turns texts into numbers, word by word. ``before`` and ``after`` are the special tokens around each text."""

    is_fast: ClassVar[bool] = True
    takes_words: ClassVar[bool] = True
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    pad_token_type_id: ClassVar[int] = 0
    mask_token_id: ClassVar[int | None] = None
    chat_template: ClassVar[str | None] = None
    pad_token_id: int
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    sep_token_id: int | None = None
    before: tuple[Token, ...] = ()
    after: tuple[Token, ...] = ()

    @abstractmethod
    def read(self, text: str, words: Sequence[Span]) -> list[Token]:
        """Return the tokens of the words of a text."""

    def inputs(self, tokens: Sequence[Token]) -> dict[str, list[Any]]:
        """Return the further model inputs of tokens, beside their numbers, by name."""
        return {}

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return the number of special tokens around a text, or around two."""
        return (2 if pair else 1) * (len(self.before) + len(self.after))

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        words: Sequence[Span] | None = None,
        add_special_tokens: bool = True,
        truncation: bool | str = False,
        max_length: int | None = None,
        stride: int = 0,
        return_overflowing_tokens: bool = False,
        **_: Any,
    ) -> Encoding:
        """Return lists by name: ``input_ids``, ``attention_mask``, ``offset_mapping`` and further model inputs.

        For a list of texts the lists have an entry per text, or per window with ``return_overflowing_tokens``.
        Windows of a text, or of the second text of a pair, overlap by ``stride`` tokens. ``words`` are the words of
        the first text. Other arguments of transformers' tokenizers are accepted and have no effect.
        """
        alone = isinstance(text, str)
        texts, seconds = [text] if isinstance(text, str) else text, _listed(text_pair)
        encoding, owners = Encoding(), []
        for number, first_text in enumerate(texts):
            first = self.read(first_text, split_words(first_text) if words is None else words)
            second = None if seconds is None else self.read(seconds[number], split_words(seconds[number]))
            room = None
            if truncation and max_length is not None:
                special = self.num_special_tokens_to_add(second is not None) if add_special_tokens else 0
                room = max_length - special - (0 if second is None else len(first))
            for tokens, count in self._windows(first, second, room, stride, add_special_tokens):
                owners.append([None if token.special else int(n >= count) for n, token in enumerate(tokens)])
                for name, values in self._named(tokens).items():
                    encoding.setdefault(name, []).append(values)
                if not return_overflowing_tokens:
                    break
        answer = Encoding({name: values[0] for name, values in encoding.items()}) if alone else encoding
        answer.owners = owners
        return answer

    def _windows(
        self, first: list[Token], second: list[Token] | None, room: int | None, stride: int, special: bool
    ) -> Iterator[tuple[list[Token], int]]:
        """Yield the tokens of each window, and how many of them belong to the first text."""
        before, after = (self.before, self.after) if special else ((), ())
        for part in _overlapping(first if second is None else second, room, stride):
            whole = [*before, *part, *after]
            lead = [] if second is None else [*before, *first, *after]
            yield [*lead, *whole], len(whole if second is None else lead)

    def _named(self, tokens: Sequence[Token]) -> dict[str, list[Any]]:
        return {
            "input_ids": [token.number for token in tokens],
            "attention_mask": [1] * len(tokens),
            "offset_mapping": [token.span for token in tokens],
            "special_tokens_mask": [int(token.special) for token in tokens],
            **self.inputs(tokens),
        }


def _listed(text: str | Sequence[str] | None) -> Sequence[str] | None:
    return [text] if isinstance(text, str) else text


def _overlapping(tokens: list[Token], room: int | None, stride: int) -> Iterator[list[Token]]:
    if room is None or len(tokens) <= room:
        yield tokens
        return
    for start in range(0, len(tokens), room - stride):
        yield tokens[start : start + room]
        if start + room >= len(tokens):
            return
