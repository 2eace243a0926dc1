"""ELMo's tokenizer: each word is one token, which the network reads as the bytes of its characters.

A word is <begin word>, as many of its UTF-8 bytes as fit, <end word>, and padding; a sentence is enclosed in <S> and
</S>. All numbers are increased by one, so that 0 marks a missing word (the format of allenai/bilm-tf).
"""

from collections.abc import Sequence
from typing import Any

from adaptdock.backbones.recurrent.word_tokenizer import Token, WordTokenizer
from adaptdock.plugins.toolkit.windowing import Span

BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PADDING = range(256, 261)
NOTHING, WORD, BEGIN, END = range(4)
"""The values of ``input_ids``: kinds of tokens only, since a word is known by its characters."""


class CharacterTokenizer(WordTokenizer):
    """Turns words into their characters, ``longest`` numbers a word."""

    model_input_names = ("input_ids", "characters", "attention_mask")
    pad_token_id = NOTHING
    bos_token_id, eos_token_id, sep_token_id = BEGIN, END, END
    before = (Token(BEGIN, special=True),)
    after = (Token(END, special=True),)

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def read(self, text: str, words: Sequence[Span]) -> list[Token]:
        """Return a token for each word."""
        return [Token(WORD, (start, end), text[start:end]) for start, end in words if end > start]

    def inputs(self, tokens: Sequence[Token]) -> dict[str, list[Any]]:
        """Return the characters (T, longest)."""
        return {"characters": [self._characters(token) for token in tokens]}

    def of_words(self, words: Sequence[str]) -> list[list[int]]:
        """Return the characters (T + 2, longest) of a sentence's words, between <S> and </S>."""
        tokens = [*self.before, *(Token(WORD, (0, len(word)), word) for word in words), *self.after]
        return [self._characters(token) for token in tokens]

    def _characters(self, token: Token) -> list[int]:
        if token.number == WORD:
            inner = list(token.text.encode("utf-8", "ignore")[: self.longest - 2])
        else:
            inner = [BEGIN_SENTENCE if token.number == BEGIN else END_SENTENCE]
        whole = [BEGIN_WORD, *inner, END_WORD]
        return [number + 1 for number in [*whole, *[PADDING] * (self.longest - len(whole))]]
