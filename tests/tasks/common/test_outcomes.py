"""Outcomes: what is wrong with a prediction, how badly, and what is drawn."""

from typing import Any

from adaptdock.engine.core.assembly import make_task
from adaptdock.plugins.contracts import Mark, Outcome
from adaptdock.plugins.task_abilities import outcome
from adaptdock.tasks.common.outcomes import NONE, OTHER_EXTENT, entity_outcome


def texts(result: Outcome) -> dict[str, str]:
    return {passage.title: passage.text for passage in result.passages}


def test_a_surer_wrong_label_is_a_worse_error() -> None:
    task = make_task("classification", {"labels": ("a", "b")})
    record = {"text": "t", "label": "a"}

    def result(label: str | None, score: float) -> Outcome:
        return outcome(task, record, {"label": label, "score": score, "scores": {label or "b": score}})

    assert result("a", 0.9).error == 0
    assert result("b", 0.9).error > result("b", 0.6).error > 0
    assert result("b", 0.9).pairs == (("a", "b"),)
    assert result("b", 0.9).scores == ((0.9, False),)
    assert texts(result("b", 0.9)) == {"text": "t", "expected": "a", "predicted": "b 0.90"}
    assert result(None, 0.4).pairs == (("a", "(out of scope)"),)


def test_several_labels_are_compared_one_by_one() -> None:
    task = make_task("classification", {"labels": ("a", "b", "c"), "multi_label": True})
    prediction = {"labels": ["b", "c"], "scores": {"a": 0.4, "b": 0.9, "c": 0.8}}
    result = outcome(task, {"text": "t", "label": ["a", "b"]}, prediction)
    assert result.pairs == (("a", NONE), ("b", "b"), (NONE, "c"))
    assert result.scores == ((0.4, True), (0.9, True), (0.8, False))
    assert outcome(task, {"text": "t", "label": ["b", "c"]}, prediction).error == 0
    assert outcome(task, {"text": "t", "label": []}, {"labels": [], "scores": {"a": 0.1}}).error == 0


def test_entities_are_right_missed_invented_of_another_label_or_of_another_extent() -> None:
    expected = [("PER", 0, 3), ("LOC", 5, 8), ("ORG", 10, 15), ("PER", 20, 24)]
    predicted = [("PER", 0, 3), ("ORG", 5, 8), ("ORG", 10, 18), ("LOC", 30, 33)]
    result = entity_outcome("x" * 40, expected, predicted, [0.9, 0.8, 0.7, 0.6])
    assert set(result.pairs) == {("PER", "PER"), ("LOC", "ORG"), ("ORG", OTHER_EXTENT), ("PER", NONE), (NONE, "LOC")}
    assert result.scores == ((0.9, True), (0.8, False), (0.7, False), (0.6, False))
    assert result.passages[0].marks[0] == Mark(0, 3, "PER", wrong=False)
    assert [mark.wrong for mark in result.passages[1].marks] == [False, True, True, True]
    assert entity_outcome("x" * 40, expected, expected, [1.0] * 4).error == 0
    fewer = entity_outcome("x" * 40, expected, predicted[:3], [0.9, 0.8, 0.7])
    assert fewer.error < result.error


def test_only_words_with_a_wrong_tag_are_marked() -> None:
    task = make_task("pos", {"labels": ("N", "V")})
    words = [
        {"text": "Ada", "tag": "N", "start": 0, "end": 3, "score": 0.9},
        {"text": "sings", "tag": "N", "start": 4, "end": 9, "score": 0.6},
    ]
    result = outcome(task, {"tokens": ["Ada", "sings"], "tags": ["N", "V"]}, {"text": "Ada sings", "words": words})
    assert [passage.marks for passage in result.passages] == [(Mark(4, 9, "V", True),), (Mark(4, 9, "N", True),)]
    assert result.pairs == (("N", "N"), ("V", "N"))
    assert result.error > 0


def qa(answers: list[dict[str, Any]], **prediction: Any) -> Outcome:
    record = {"question": "Who?", "context": "Ada met Bob.", "answers": answers}
    return outcome(
        make_task("qa", {}), record, {"answer": None, "start": None, "end": None, "score": 0.5, **prediction}
    )


def test_an_answer_is_compared_with_its_references_and_marked_in_the_context() -> None:
    ada = {"answer": "Ada", "start": 0, "end": 3, "score": 0.9}
    right = qa([{"text": "Ada", "start": 0}], **ada)
    assert right.error == 0
    assert right.passages[2].marks == (Mark(0, 3, "answer 0.90"),)
    wrong = qa([{"text": "Bob", "start": 8}], **ada)
    assert wrong.error > 1
    assert wrong.passages[1].marks == (Mark(8, 11, "answer", True),)
    assert wrong.pairs == (("answer", "answer"),)
    assert qa([], **ada).pairs == (("no answer", "answer"),)
    assert texts(qa([]))["predicted"] == "no answer"
    assert qa([]).error == 0


def test_numbers_are_as_wrong_as_they_are_far_apart() -> None:
    task = make_task("regression", {})
    result = outcome(task, {"text": "t", "label": 2.0}, {"value": 3.5})
    assert result.error == 1.5
    assert result.values == (2.0, 3.5)


def test_generated_texts_stand_beside_the_reference() -> None:
    task = make_task("generation", {})
    record = {"prompt": "Say hi", "input": "", "answer": "hello there"}
    same, other = outcome(task, record, {"text": "hello there"}), outcome(task, record, {"text": "goodbye"})
    assert same.error == 0
    assert other.error == 100
    assert texts(other) == {"prompt": "Say hi", "expected": "hello there", "predicted": "goodbye"}
    unwritten = outcome(task, record, {"nll": 6.0, "tokens": 3})
    assert unwritten.error == 2.0
    assert "predicted" not in texts(unwritten)


def test_a_task_without_the_ability_gets_an_outcome_from_its_metric() -> None:
    task = make_task("embedding", {})
    record = {"text": "a cat", "positive": "a cat sat", "numbers": {"text": 0, "positive": 0}, "unit": 0}
    prediction = {"embedding": [1.0, 0.0], "positive": [1.0, 0.0]}
    result = outcome(task, record, prediction)
    assert result.error == 0
    assert result.pairs == ()
    assert texts(result)["text"] == "a cat"
    assert "a cat sat" in texts(result)["expected"]
