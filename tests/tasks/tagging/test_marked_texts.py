"""Marked spans as tags of words: extents are kept to the character, and what cannot be tagged is counted."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan
from adaptdock.plugins.toolkit.word_division import Division, divide
from adaptdock.tasks.ner import NER, entity_spans

SCRIPTS = "aZé e\u0301ñß'-.,@/5语东京タイไทยกรุงเทพमुंबई서울עברית😀👩\u200d👧🇸🇪\u00ad\u200b\u00a0\t\n"


def clean(text: str, marks: list[LabelledSpan], **options: Any) -> tuple[dict[str, Any], list[str]]:
    record = NER.annotated(AnnotatedText(text, "a:1", tuple(marks)))
    assert record is not None
    cleaned = NER(NER.Options(**options)).clean([{"where": "a:1", **record}], "train")
    return cleaned.records[0], cleaned.notes


def extents(record: dict[str, Any]) -> list[tuple[int, int, str]]:
    spans = record["spans"]
    return [(spans[first][0], spans[last - 1][1], label) for label, first, last in entity_spans(record["tags"])]


def is_seen(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character)[0] != "C"


@st.composite
def marked(draw: st.DrawFn) -> tuple[str, list[LabelledSpan]]:
    text = draw(st.text(SCRIPTS, max_size=30))
    bounds = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    return text, [LabelledSpan(start, end, draw(st.sampled_from(["PER", "B-cell", "O"]))) for start, end in pairs]


@given(marked())
def test_a_span_that_begins_and_ends_with_a_visible_character_comes_back_exactly(
    case: tuple[str, list[LabelledSpan]],
) -> None:
    text, marks = case
    marks = [mark for mark in marks if is_seen(text[mark.start]) and is_seen(text[mark.end - 1])]
    record, _ = clean(text, marks)
    assert extents(record) == [(mark.start, mark.end, mark.label) for mark in marks]
    assert len(record["tokens"]) == len(record["spans"])
    assert all(token.strip() for token in record["tokens"])


@given(st.text(SCRIPTS, max_size=30))
def test_a_text_without_spans_has_the_words_of_prediction(text: str) -> None:
    record, notes = clean(text, [])
    assert [(span, token) for span, token in zip(record["spans"], record["tokens"], strict=True)] == [
        (span, token) for span, token in divide(text, Division()) if token.strip()
    ]
    assert set(record["tags"]) <= {"O"}
    assert notes == []


def test_a_word_that_is_cut_is_divided_there_and_said() -> None:
    record, notes = clean("Nordlys-fans sing", [LabelledSpan(0, 7, "ORG")])
    assert record["tokens"] == ["Nordlys", "-fans", "sing"]
    assert record["tags"] == ["B-ORG", "O", "O"]
    assert notes == [
        "train: 1 spans begin or end within a word, which is divided there: 'Nordlys' (ORG) in 'Nordlys-fans si' at a:1"
    ]


def test_of_overlapping_spans_the_longest_is_kept_and_the_others_are_listed() -> None:
    marks = [LabelledSpan(14, 18, "LOC"), LabelledSpan(0, 18, "ORG"), LabelledSpan(14, 24, "ORG")]
    record, notes = clean("University of Oslo sings", marks)
    assert extents(record) == [(0, 18, "ORG")]
    assert notes[0].startswith(
        "train: 2 spans overlap others, of which the longest is kept, and are left out: 'Oslo sings'"
    )


def test_a_span_of_nothing_visible_has_no_word() -> None:
    record, notes = clean("ab\u200b\u200bcd", [LabelledSpan(2, 4, "X")])
    assert set(record["tags"]) == {"O"}
    assert any("1 spans have no visible character and are left out" in note for note in notes)


@pytest.mark.parametrize(("kind", "tokens"), [("spaces", ["Ada's,", "home"]), ("characters", list("Ada's,home"))])
def test_the_division_that_was_asked_for_divides_the_texts(kind: str, tokens: list[str]) -> None:
    record, _ = clean("Ada's, home", [], division=kind)
    assert record["tokens"] == tokens


def test_the_labels_of_a_raw_record_are_known_before_it_is_divided() -> None:
    record = NER.annotated(AnnotatedText("Ada sings", "a", (LabelledSpan(0, 3, "PER"),)))
    assert record is not None
    assert NER(NER.Options()).labels(record) == ["PER"]
    assert NER.annotated(AnnotatedText("Ada sings", "a")) is None


def test_the_learnt_division_is_the_one_that_divided_the_texts() -> None:
    texts = ["Ada's e-mail, 3.5 % at 10:30!", "St. Paul's: http://a.b/c @ada #x", "U.S.-based (Oslo)"] * 5
    records = [clean(text, [LabelledSpan(*divide(text, Division())[0][0], "X")])[0] for text in texts]
    division = NER(NER.Options()).fit(records).options.division
    assert division is not None
    for text, record in zip(texts, records, strict=True):
        assert [span for span, _ in divide(text, division)] == record["spans"]
