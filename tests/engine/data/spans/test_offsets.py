"""Offsets of spans: the unit of a file is found out; what does not fit its text is moved or left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.offsets import settled
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan, Relation

TEXT = "😀😀 Zoë Öst moved to Lund. 👩‍👩‍👧‍👦 Ann Lee sings."
NAMES = ["Zoë Öst", "Lund", "Ann Lee"]
COUNTS = {
    "characters": len,
    "UTF-16": lambda text: len(text.encode("utf-16-le")) // 2,
    "bytes of UTF-8": lambda text: len(text.encode()),
}


def spans(unit: str, stated: bool, inclusive: int = 0) -> tuple[LabelledSpan, ...]:
    count = COUNTS[unit]
    bounds = [(TEXT.index(name), TEXT.index(name) + len(name)) for name in NAMES]
    return tuple(
        LabelledSpan(count(TEXT[:start]), count(TEXT[:end]) - inclusive, "X", TEXT[start:end] if stated else None)
        for start, end in bounds
    )


def covered(text: AnnotatedText) -> list[str]:
    return [text.text[span.start : span.end] for span in text.spans or ()]


@pytest.mark.parametrize("unit", COUNTS)
@pytest.mark.parametrize("stated", [True, False])
def test_the_unit_shows_in_stated_texts_or_in_the_borders_of_words(unit: str, stated: bool) -> None:
    texts, note = settled([AnnotatedText(TEXT, "a:1", spans(unit, stated))], Findings())
    assert covered(texts[0]) == NAMES
    assert (unit in note) == (unit != "characters")


def test_an_end_may_be_the_last_character_where_the_texts_say_so() -> None:
    texts, note = settled([AnnotatedText(TEXT, "a:1", spans("characters", True, inclusive=1))], Findings())
    assert covered(texts[0]) == NAMES
    assert "the end is that of the last one" in note


@pytest.mark.parametrize(
    ("span", "text", "finding"),
    [
        (LabelledSpan(3, 8, "X"), "Ada", "begin or end with white space, which is left out of them"),
        (LabelledSpan(4, 9, "X"), None, "are outside their text and are left out"),
        (LabelledSpan(-1, 3, "X"), None, "are outside their text and are left out"),
        (LabelledSpan(5, 5, "X"), None, "are empty and are left out"),
        (LabelledSpan(3, 4, "X"), None, "hold white space only and are left out"),
        (LabelledSpan(0, 3, "X", "Ada"), "Ada", "were moved to where their text is"),
        (LabelledSpan(4, 7, "X", "Eva"), None, "state a text that is not there and are left out"),
    ],
)
def test_a_span_that_does_not_fit_is_repaired_or_left_out_and_counted(
    span: LabelledSpan, text: str | None, finding: str
) -> None:
    findings = Findings()
    content = "by  Ada " if text == "Ada" else "by  Ada"
    texts, _ = settled([AnnotatedText(content, "a:7", (span, span))], findings)
    assert covered(texts[0]) == ([text] if text else [])
    place = f"a:7 ({span.start} to {span.end}, X)"
    assert any(f"b: 2 spans {finding}: {place}" == note for note in findings.notes("b")), findings.notes("b")


def test_relations_hold_when_spans_before_theirs_are_left_out() -> None:
    given_spans = (LabelledSpan(9, 9, "X"), LabelledSpan(0, 3, "A"), LabelledSpan(4, 8, "B"), LabelledSpan(0, 3, "A"))
    relations = (Relation(1, 2, "r"), Relation(2, 3, "s"), Relation(0, 1, "t"))
    texts, _ = settled([AnnotatedText("Ada sings", "a", given_spans, relations=relations)], Findings())
    assert covered(texts[0]) == ["Ada", "sing"]
    assert texts[0].relations == (Relation(0, 1, "r"), Relation(1, 0, "s"))


@given(st.data(), st.text("aä語😀 \u0301\u200d.", min_size=1, max_size=20))
def test_stated_texts_are_found_whatever_the_unit(data: st.DataObject, text: str) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    count = COUNTS[data.draw(st.sampled_from(sorted(COUNTS)))]
    span = LabelledSpan(count(text[:start]), count(text[:end]), "X", text[start:end])
    texts, _ = settled([AnnotatedText(text, "a", (span,))], Findings())
    wanted = text[start:end].strip()
    assert covered(texts[0]) == ([wanted] if wanted else [])
