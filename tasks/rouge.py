"""ROUGE (Lin, 2004): how many words, pairs of words, and words in order two texts have in common.

Computed by the rouge-score library with Porter's stemmer, and with words of any alphabet, where the library
itself knows a to z only; of English text the scores are the library's.
"""

from collections.abc import Sequence
from typing import Any

import regex

WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
KINDS = ("rouge1", "rouge2", "rougeL")
SHORT = 3
"""Words of at most so many letters are not stemmed, as in the library."""


def rouge(references: Sequence[Sequence[str]], texts: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L of texts, in percent.

    A text that has several references is compared with the one of the highest ROUGE-1, as in SciTLDR
    (Cachola et al., 2020; scripts/cal-rouge.py of allenai/scitldr).
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(KINDS, tokenizer=_Words())
    sums = dict.fromkeys(KINDS, 0.0)
    for given, text in zip(references, texts, strict=True):
        best = max((scorer.score(reference, text) for reference in given), key=lambda found: found[KINDS[0]].fmeasure)
        for kind in KINDS:
            sums[kind] += best[kind].fmeasure
    return {kind: round(100 * total / len(texts), 2) for kind, total in sums.items()}


class _Words:
    """A tokenizer as the library wants it."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stemmer: Any = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """Return the stems of the words, in lower case."""
        words = WORD.findall(text.lower())
        return [self.stemmer.stem(word) if len(word) > SHORT else word for word in words]
