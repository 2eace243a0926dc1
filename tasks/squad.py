"""The measures of the SQuAD data sets: exact match and F1 of answers' words (Rajpurkar et al. 2016, 2018).

Both sides are normalised: lower case, no ASCII punctuation, no articles (a, an, the), single spaces. An answer counts
by the reference that it fits best. A question without an answer is answered rightly by an empty text and no other.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return what is compared of an answer."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> int:
    """Return 1 where an answer is one of the references, else 0; no reference means that there is no answer."""
    return int(normalised(answer) in _comparable(references))


def f1(answer: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of an answer's words, by the best reference."""
    return max(_f1(normalised(answer).split(), reference.split()) for reference in _comparable(references))


def _comparable(references: Sequence[str]) -> list[str]:
    """Return the references of which something is left to compare; an empty one where there is none."""
    return [found for found in map(normalised, references) if found] or [""]


def _f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))
