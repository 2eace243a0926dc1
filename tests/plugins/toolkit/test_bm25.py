"""BM25 beside its formula, written out for each pair of a word and a text."""

import math

import pytest

from adaptdock.plugins.toolkit.bm25 import BM25

TEXTS = ["the cat sat on the mat", "the dog sat", "a bird sang in a tall tree", ""]


def formula(query: str, text: str) -> float:
    k, b = 1.2, 0.75
    mean = sum(len(other.split()) for other in TEXTS) / len(TEXTS)
    total = 0.0
    for word in query.split():
        holding = sum(word in other.split() for other in TEXTS)
        idf = math.log(1 + (len(TEXTS) - holding + 0.5) / (holding + 0.5))
        count = text.split().count(word)
        total += idf * count * (k + 1) / (count + k * (1 - b + b * len(text.split()) / mean))
    return total


@pytest.mark.parametrize("query", ["the cat", "bird", "sat sat tree", "nothing of it"])
def test_scores_are_those_of_the_formula(query: str) -> None:
    assert BM25(TEXTS).scores(query, TEXTS) == pytest.approx([formula(query, text) for text in TEXTS])


def test_case_and_punctuation_do_not_matter() -> None:
    assert BM25(["The cat."]).scores("CAT?", ["The cat."])[0] > 0
