"""What clients notice when another adapter answers."""

import pytest

from adaptdock.serving.answer_changes import answer_changes


def card(name: str, **options: object) -> dict[str, object]:
    return {"task": {"name": name, "options": options}}


@pytest.mark.parametrize(
    ("before", "after", "sentences"),
    [
        (card("ner", labels=["A", "B"]), card("ner", labels=["B", "A"]), []),
        (card("ner", labels=["A", "B"]), card("pos", labels=["A"]), ["the task is pos, and was ner"]),
        (card("ner", labels=["A", "B"]), card("ner", labels=["A"]), ["labels that answers no longer have: B"]),
        (card("ner", labels=["A"]), card("ner", labels=["A", "B"]), ["new labels: B"]),
        (
            card("ner", labels=[f"L{number}" for number in range(8)]),
            card("ner", labels=["L0"]),
            ["labels that answers no longer have: L1, L2, L3, L4, L5 and 2 more"],
        ),
        (card("qa"), card("qa", labels=None), []),
        ({"task": {"name": "qa", "options": None}}, card("qa"), []),
    ],
)
def test_only_other_answers_are_named(before, after, sentences):
    assert answer_changes(before, after) == sentences
