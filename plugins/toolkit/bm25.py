"""BM25: a ranking of texts by the words that they share with a query, without any training.

Score of a text d for a query q (Robertson and Zaragoza 2009), with the idf of Lucene, which is never negative:
sum over the words w of q of  ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f_w (k + 1) / (f_w + k (1 - b + b |d| / mean)).
N is the number of texts, n_w of those with w, f_w the count of w in d, |d| the number of words in d.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

K, B = 1.2, 0.75
"""The usual saturation of counts, and normalisation by length."""
WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return WORD.findall(text.casefold())


class BM25:
    """The word counts of a collection of texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts = {text: Counter(words(text)) for text in texts}
        lengths = [counts.total() for counts in self._counts.values()]
        self._mean = sum(lengths) / max(1, len(lengths)) or 1.0
        self._texts_with = Counter(word for counts in self._counts.values() for word in counts)

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each of these texts of the collection for a query."""
        asked = [(word, count, self._idf(word)) for word, count in Counter(words(query)).items()]
        return [sum(count * idf * self._weight(word, text) for word, count, idf in asked) for text in texts]

    def _idf(self, word: str) -> float:
        with_word = self._texts_with[word]
        return math.log(1 + (len(self._counts) - with_word + 0.5) / (with_word + 0.5))

    def _weight(self, word: str, text: str) -> float:
        counts = self._counts[text]
        frequency = counts[word]
        length = counts.total() / self._mean
        return frequency * (K + 1) / (frequency + K * (1 - B + B * length)) if frequency else 0.0
