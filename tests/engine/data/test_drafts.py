"""Drafts: how well they fit confirmed answers, by the kind of answers."""

from typing import Any

import pytest
from sklearn.metrics import accuracy_score

from adaptdock.engine.data.drafts import agreement, answer_of, with_answer
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan


@pytest.mark.parametrize(
    ("kind", "pairs", "metric", "value"),
    [
        ("label", [("a", "a"), ("b", "a"), ("b", None), ("b", "b")], "accuracy", 50.0),
        ("labels", [(["a", "b"], ["b", "a"]), ([], []), ([], None)], "accuracy", 200 / 3),
        ("tags", [(["A", "B"], ["A", "A"]), (["A"], None)], "accuracy", 100 / 3),
        ("spans", [([[0, 1, "A"], [2, 3, "B"]], [[0, 1, "A"], [2, 3, "A"]]), ([[0, 1, "A"]], None)], "f1", 40.0),
        ("spans", [([], [])], "f1", 100.0),
    ],
)
def test_agreement_is_the_metric_of_the_kind(kind: Any, pairs: list[Any], metric: str, value: float) -> None:
    name, reached = agreement(kind, pairs)
    assert (name, reached) == (metric, pytest.approx(value))


def test_agreement_of_labels_is_the_accuracy_of_scikit_learn() -> None:
    expected, drafted = list("abcabc"), list("abbacc")
    assert agreement("label", list(zip(expected, drafted, strict=True)))[1] == pytest.approx(
        100 * accuracy_score(expected, drafted)
    )


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("label", "a"), ("label", None), ("labels", ["a", "b"]), ("spans", [[0, 3, "PER"]]), ("tags", ["X", "Y"])],
)
def test_an_answer_put_into_a_text_is_read_from_it(kind: Any, answer: Any) -> None:
    words = (LabelledSpan(0, 3, stated="ada"), LabelledSpan(4, 7, stated="met"))
    assert answer_of(with_answer(AnnotatedText("ada met", "", words=words), kind, answer), kind) == answer
