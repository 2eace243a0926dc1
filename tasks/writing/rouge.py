"""ROUGE (Lin, 2004): the overlap of two texts in words, pairs of words, and the longest common subsequence.

Computed by the rouge-score library with Porter's stemmer, but with words of any alphabet: the library's own tokenizer
knows a to z only. For English text the scores are the library's.
"""

from collections.abc import Sequence
from typing import Any

import regex

WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
KINDS = ("rouge1", "rouge2", "rougeL")
SHORT = 3
"""Longest word that is not stemmed, as in the library, in letters."""


def rouge(references: Sequence[Sequence[str]], texts: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L of texts, in percent.

    Of several references, the one with the highest ROUGE-1 counts, as in SciTLDR (Cachola et al., 2020;
    scripts/cal-rouge.py of allenai/scitldr).
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(KINDS, tokenizer=_Words())
    sums = dict.fromkeys(KINDS, 0.0)
    for alternatives, text in zip(references, texts, strict=True):
        candidates = [scorer.score(reference, text) for reference in alternatives]
        best = max(candidates, key=lambda scores: scores[KINDS[0]].fmeasure)
        for kind in KINDS:
            sums[kind] += best[kind].fmeasure
    return {kind: round(100 * total / len(texts), 2) for kind, total in sums.items()}


class _Words:
    """A tokenizer with the interface of the rouge-score library."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stemmer: Any = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """Return the stems of the words, in lower case."""
        words = WORD.findall(text.lower())
        return [self.stemmer.stem(word) if len(word) > SHORT else word for word in words]
