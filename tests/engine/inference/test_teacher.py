"""Answers of a teacher: exactly in the requested form, with known labels only, or none."""

from typing import Any

import pytest

from adaptdock.engine.inference.teacher import Teacher, parsed_answer
from adaptdock.errors import UsageError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan

LABELS = ("PER", "LOC")
TEXT = AnnotatedText("ada ada", "", words=(LabelledSpan(0, 3, stated="ada"), LabelledSpan(4, 7, stated="ada")))


@pytest.mark.parametrize(
    ("kind", "content", "answer"),
    [
        ("label", " PER\n", "PER"),
        ("label", "per", None),
        ("label", "The label is PER", None),
        ("labels", '["PER", "LOC", "PER"]', ["LOC", "PER"]),
        ("labels", "[]", []),
        ("labels", '["ORG"]', None),
        ("labels", '{"labels": ["PER"]}', None),
        ("labels", "PER", None),
        ("tags", '["PER", "LOC"]', ["PER", "LOC"]),
        ("tags", '["PER"]', None),
        ("tags", "[1, 2]", None),
        ("spans", '[["ada", "PER"], ["ada", "LOC"]]', [[0, 3, "PER"], [4, 7, "LOC"]]),
        ("spans", '[["ada", "PER"], ["ada", "PER"], ["ada", "PER"]]', None),
        ("spans", '[["", "PER"]]', None),
        ("spans", '[["ada", "PER", 1]]', None),
        ("spans", "[" * 100_000, None),
    ],
)
def test_an_answer_in_another_form_is_none(kind: Any, content: str, answer: Any) -> None:
    assert parsed_answer(kind, LABELS, TEXT, content) == answer


@pytest.mark.parametrize(("url", "key"), [("ftp://a/v1", ""), ("a/v1", ""), ("http://a/v1", "k\n")])
def test_an_address_or_key_that_cannot_be_used_is_refused(url: str, key: str) -> None:
    with pytest.raises(UsageError):
        Teacher(url, "m", key, "label", LABELS)


@pytest.mark.parametrize("url", ["http://a/v1", "http://a/v1/", "http://a/v1/chat/completions"])
def test_the_base_of_an_endpoint_or_its_whole_address_is_given(url: str) -> None:
    with Teacher(url, "m", "", "label", LABELS) as teacher:
        assert teacher.url == "http://a/v1/chat/completions"
