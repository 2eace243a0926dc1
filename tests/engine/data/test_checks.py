"""Checks of data: duplicates, texts with two labels, rare and misspelt labels, texts in two splits."""

import pytest

from adaptdock.engine.data.checks import check
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.ner import NER

TASK = Classification(Classification.Options())


def records(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"where": f"a:{number}", "text": text, "label": label} for number, (text, label) in enumerate(pairs, 1)]


def described(*pairs: tuple[str, str], **splits: list[dict[str, str]]) -> list[str]:
    return [problem.describe() for problem in check({"train": records(*pairs), **splits}, TASK)]


def test_clean_data_has_no_problem() -> None:
    assert described(("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")) == []


def test_repeated_texts_are_counted_and_those_with_other_labels_named() -> None:
    problems = described(("a", "x"), ("a", "x"), ("b", "x"), ("b", "y"), ("c", "y"))
    assert "train: 2 of 5 records repeat the text of another: a:1 and a:2, a:3 and a:4" in problems
    assert "train: 1 texts have more than one label: a:3 and a:4" in problems


def test_texts_of_two_splits_are_named() -> None:
    problems = described(
        ("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"), test=[{"where": "t:9", "text": "b", "label": "y"}]
    )
    assert problems == ["1 texts of test are in train too: a:2 and t:9"]


@pytest.mark.parametrize(
    ("rare", "usual", "is_misspelt"),
    [
        ("postive", "positive", True),
        ("Positive", "positive", True),
        ("item 1", "item 2", False),
        ("cat", "car", False),
    ],
)
def test_a_rare_label_like_a_frequent_one_may_be_misspelt(rare: str, usual: str, is_misspelt: bool) -> None:
    pairs = [(f"text {number}", usual) for number in range(20)] + [("odd", rare)]
    problems = described(*pairs)
    assert (f"train: 1 labels may be misspelt: {rare!r} for {usual!r} at a:21" in problems) == is_misspelt
    assert f"train: 1 labels have one example only: {rare!r} at a:21" in problems


def test_types_of_entities_count_once_and_sentences_by_their_words() -> None:
    rows = [{"where": f"a:{n}", "tokens": ["Ada", "Lee", str(n)], "tags": ["B-PER", "I-PER", "O"]} for n in range(3)]
    rows.append({"where": "a:9", "tokens": ["Ada", "Lee", "0"], "tags": ["B-LOC", "O", "O"]})
    problems = [problem.describe() for problem in check({"train": rows}, NER(NER.Options()))]
    assert problems == [
        "train: 1 of 4 records repeat the text of another: a:0 and a:9",
        "train: 1 texts have more than one label: a:0 and a:9",
        "train: 1 labels have one example only: 'LOC' at a:9",
    ]
