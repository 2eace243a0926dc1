"""The metrics of the SQuAD data sets: exact match and F1 of the words of answers (Rajpurkar et al. 2016, 2018).

Both sides are normalised: lower case, no ASCII punctuation, no articles (a, an, the), single spaces. The best of
several references counts. For a question without an answer, only an empty text is right.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return an answer in lower case, without punctuation, articles and repeated spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> int:
    """Return 1 if an answer is one of the references, else 0; without references, an empty answer is right."""
    return int(normalised(answer) in _comparable(references))


def f1(answer: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of an answer's words, by the best reference."""
    return max(_f1(normalised(answer).split(), reference.split()) for reference in _comparable(references))


def _comparable(references: Sequence[str]) -> list[str]:
    """Return the normalised references that are not empty; one empty reference if there are none."""
    return [words for words in map(normalised, references) if words] or [""]


def _f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference))
