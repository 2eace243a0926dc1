"""Answers that need no backbone: what a bag of words, or a table of words, says of records."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adaptdock.plugins.toolkit.blas_threads import one_blas_thread

MOST = 20_000
"""Most training texts of a bag of words."""
CHARACTERS = 3_000_000
"""Most characters of these texts, as long texts have many pairs of words: 20,000 sentences take five seconds."""
DECISIONS = 800_000
"""Most texts times classes, as each class has a regression of its own: 10,000 texts of 77 classes take ten seconds."""
STRENGTHS = (1.0, 10.0, 100.0)
"""Inverse regularisation strengths (C) that are compared."""
COMPARED = 2_000
"""Most texts on which strengths are compared."""
FOLDS = 3


def fits_bag_of_words(texts: int, classes: int) -> bool:
    """Return whether :func:`bag_of_words` is fitted on so many texts of so many classes."""
    return classes > 1 and texts <= MOST and texts * classes <= DECISIONS


@one_blas_thread()
def bag_of_words(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str]) -> list[dict[str, float]] | None:
    """Return the probability of each label for each asked text: logistic regression on TF-IDF of words and word pairs.

    None where :func:`fits_bag_of_words` is false, for more than :data:`CHARACTERS`, and for texts without words. Of
    several labels each has a regression against the others: the joint one takes three times as long and is not better.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.multiclass import OneVsRestClassifier

    classes = len(set(labels))
    if not fits_bag_of_words(len(texts), classes) or sum(map(len, texts)) > CHARACTERS:
        return None
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    try:
        vectors = words.fit_transform(texts)
    except ValueError:  # no text has a word
        return None
    targets = np.asarray(labels)
    solver: dict[str, Any] = {"solver": "liblinear", "dual": True, "tol": 0.1, "random_state": 0}
    regression = LogisticRegression(C=STRENGTHS[1], max_iter=300, **(solver if classes > 2 else {}))
    model = OneVsRestClassifier(regression)
    # Every so many of the texts in the order of their labels: each label has its share.
    compared = np.argsort(targets, kind="stable")[:: -(-len(targets) // COMPARED)]
    counts = Counter(targets[compared].tolist())
    folds = min(FOLDS, min(counts.values())) if len(counts) > 1 else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the last iteration
        if folds > 1:
            search = GridSearchCV(model, {"estimator__C": STRENGTHS}, cv=folds, scoring="neg_log_loss", refit=False)
            model.set_params(**search.fit(vectors[compared], targets[compared]).best_params_)
        probabilities = model.fit(vectors, targets).predict_proba(words.transform(asked))
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
