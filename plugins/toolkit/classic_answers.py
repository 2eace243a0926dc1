"""Answers that need no backbone: what a bag of words, or a table of words, says of records."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from adaptdock.plugins.toolkit.blas_threads import one_blas_thread

MOST = 2_000
"""Most training texts of a bag of words; with more of them its regression takes minutes."""
STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisation strengths (C) that are compared."""
FOLDS = 3


@one_blas_thread()
def bag_of_words(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str]) -> list[dict[str, float]] | None:
    """Return the probability of each label for each asked text: logistic regression on TF-IDF of words and word pairs.

    None for more than :data:`MOST` texts, for fewer than two labels, and for texts without words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    counts = Counter(labels)
    if len(texts) > MOST or len(counts) < 2:
        return None
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    try:
        vectors = words.fit_transform(texts)
    except ValueError:  # no text has a word
        return None
    model = LogisticRegression(C=STRENGTHS[1], max_iter=300)
    folds = min(FOLDS, min(counts.values()))
    if folds > 1:
        model = GridSearchCV(model, {"C": STRENGTHS}, cv=folds, scoring="neg_log_loss")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the last iteration
        probabilities = model.fit(vectors, labels).predict_proba(words.transform(asked))
    names = [str(name) for name in model.classes_]
    return [dict(zip(names, map(float, row), strict=True)) for row in probabilities]


def most_frequent_tags(
    sentences: Iterable[tuple[Sequence[str], Sequence[str]]], asked: Iterable[Sequence[str]]
) -> list[list[str]]:
    """Return for each word its most frequent tag in tagged sentences; for an unknown word that of all words."""
    seen: Mapping[str, Counter[str]] = defaultdict(Counter)
    for words, tags in sentences:
        for word, tag in zip(words, tags, strict=True):
            seen[word.lower()][tag] += 1
    total = sum(seen.values(), Counter())
    (common, _), *_ = total.most_common(1) or [("O", 0)]
    best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    return [[best.get(word.lower(), common) for word in words] for words in asked]


def most_similar_sentence(question: str, context: str) -> str:
    """Return the first of the sentences of a context that have most words in common with a question."""
    asked = set(re.findall(r"\w+", question.lower()))
    sentences = re.split(r"(?<=[.!?。！？])\s*", context)
    return max(sentences, key=lambda sentence: len(asked & set(re.findall(r"\w+", sentence.lower())))).strip()
