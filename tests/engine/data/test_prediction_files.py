"""Files of predictions: each form is read back as training data with the same spans, labels and words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptdock.engine.data.prediction_files import FORMS, check_form, encoded, form_of
from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.toolkit.word_division import Division, divide

SUFFIXES = {
    "jsonl": "jsonl",
    "csv": "csv",
    "parquet": "parquet",
    "conll": "conll",
    "doccano": "jsonl",
    "label-studio": "json",
    "prodigy": "jsonl",
}
SPACES = (" ", "  ", "\n", "\t", "\u00a0 ")
WORDS = st.sampled_from(
    ["Ada", "Zoë", "a\u00adb", "x\u200by", "#", "-DOCSTART-", '"', "😀", "🏴‍☠️", "北", "a@b.org", "O", "1", ",", "{"]
)


@st.composite
def entity_texts(draw: st.DrawFn) -> dict[str, Any]:
    """A prediction of ``ner``: words between any spaces, and entities that are apart."""
    words = draw(st.lists(WORDS, min_size=1, max_size=8))
    text, spans = "", []
    for word in words:
        text += draw(st.sampled_from(SPACES)) if text else ""
        spans.append((len(text), len(text) + len(word)))
        text += word
    entities, first = [], 0
    while first < len(words):
        last = first + draw(st.integers(1, 3))
        if last <= len(words) and draw(st.booleans()):
            start, end = spans[first][0], spans[last - 1][1]
            label = draw(st.sampled_from(["PER", "LOC"]))
            entities.append({"text": text[start:end], "label": label, "start": start, "end": end, "score": 0.5})
        first = last
    return {"text": text, "entities": entities}


def read_back(blob: bytes, form: str, task: str, folder: Path) -> list[dict[str, Any]]:
    path = folder / f"predictions.{SUFFIXES[form]}"
    path.write_bytes(blob)
    kind = registry.load("task", task)
    records = Reader(kind, Source(data=str(path))).splits()["train"]
    return kind(kind.Options()).clean(records, "train").records


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    predictions=st.lists(entity_texts(), min_size=1, max_size=4).filter(lambda rows: any(r["entities"] for r in rows))
)
def test_entities_of_every_form_are_read_back_as_they_were(
    form: str, predictions: list[dict[str, Any]], tmp_path: Path
) -> None:
    kind = registry.load("task", "ner")
    blob, notes = encoded(predictions, form, kind(kind.Options(division=Division())))
    assert notes == []
    records = read_back(blob, form, "ner", tmp_path)
    expected = [words_of(prediction) for prediction in predictions]
    assert [(record["tokens"], record["tags"]) for record in records] == [
        (tokens, tags) for tokens, tags, _ in expected
    ]
    if form != "conll":  # it has no text between the words
        assert [record["text"] for record in records] == [prediction["text"] for prediction in predictions]
        assert [record["spans"] for record in records] == [spans for _, _, spans in expected]


def words_of(prediction: dict[str, Any]) -> tuple[list[str], list[str], list[tuple[int, int]]]:
    """The words of a prediction with the tags of its entities, by comparing offsets."""
    words = divide(prediction["text"], Division())
    tags = []
    for (start, _), _ in words:
        entity = next((part for part in prediction["entities"] if part["start"] <= start < part["end"]), None)
        tags.append("O" if entity is None else f"{'B' if entity['start'] == start else 'I'}-{entity['label']}")
    return [word for _, word in words], tags, [span for span, _ in words]


CLASSES = [
    {"text": "ada runs", "label": "sport", "score": 0.9, "scores": {"sport": 0.9, "music": 0.1}},
    {"text": 'bob sings,\n"loud"; =1+1', "label": "music", "score": 0.8, "scores": {"music": 0.8, "sport": 0.2}},
]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "conll"])
def test_labels_of_every_form_are_read_back(form: str, tmp_path: Path) -> None:
    kind = registry.load("task", "classification")
    blob, _ = encoded(CLASSES, form, kind(kind.Options(labels=("music", "sport"))))
    records = read_back(blob, form, "classification", tmp_path)
    assert [(record["text"], record["label"]) for record in records] == [(row["text"], row["label"]) for row in CLASSES]


@pytest.mark.parametrize("form", ["doccano", "prodigy", "label-studio"])
def test_a_rejected_text_has_no_label_in_a_tool(form: str) -> None:
    kind = registry.load("task", "classification")
    blob, _ = encoded([{"text": "x", "label": None, "score": 0.1}], form, kind(kind.Options()))
    row = json.loads(blob)
    row = row[0] if isinstance(row, list) else row
    assert (
        row.get("label", row.get("accept", row.get("predictions", [{}])[0].get("result") if "data" in row else None))
        == []
    )


def test_tags_of_words_are_read_back_from_conll(tmp_path: Path) -> None:
    kind = registry.load("task", "pos")
    words = [
        {"text": "Ada", "tag": "PROPN", "start": 0, "end": 3, "score": 1.0},
        {"text": "runs", "tag": "VERB", "start": 4, "end": 8, "score": 1.0},
    ]
    blob, _ = encoded([{"text": "Ada runs", "words": words}], "conll", kind(kind.Options()))
    assert blob.decode() == "Ada\tPROPN\nruns\tVERB\n"
    (record,) = read_back(blob, "conll", "pos", tmp_path)
    assert (record["tokens"], record["tags"]) == (["Ada", "runs"], ["PROPN", "VERB"])


def test_a_word_with_a_space_has_no_place_in_conll() -> None:
    kind = registry.load("task", "ner")
    prediction = {"text": "New York", "entities": [], "tokens": ["New York"], "tags": ["O"]}
    with pytest.raises(UsageError, match="the word 'New York' has a space, which divides the columns of conll"):
        encoded([prediction], "conll", kind(kind.Options()))
    blob, notes = encoded([{"text": "", "entities": []}, {"text": "a", "entities": []}], "conll", kind(kind.Options()))
    assert (blob, notes) == (b"a\tO\n", ["1 texts have no word and are left out"])


def test_label_studio_gets_offsets_in_utf_16_units() -> None:
    kind = registry.load("task", "ner")
    entity = {"text": "Ada", "label": "PER", "start": 2, "end": 5}
    blob, _ = encoded([{"text": "😀 Ada", "entities": [entity]}], "label-studio", kind(kind.Options()))
    (result,) = json.loads(blob)[0]["predictions"][0]["result"]
    assert result["value"] == {"start": 3, "end": 6, "text": "Ada", "labels": ["PER"]}


def test_a_form_that_the_predictions_do_not_have_is_refused_with_others() -> None:
    with pytest.raises(
        UsageError, match=r"doccano is for annotated texts, .* 'embedding' do not .*jsonl, csv, parquet"
    ):
        check_form("doccano", registry.load("task", "embedding"), "embedding")
    kind = registry.load("task", "classification")
    with pytest.raises(UsageError, match=r"conll has a tag for each word, .*: give doccano"):
        encoded(CLASSES, "conll", kind(kind.Options()))


def test_the_suffix_tells_the_form_unless_it_is_named() -> None:
    assert form_of(Path("a.CSV"), None) == "csv"
    assert form_of(Path("a.iob2"), None) == "conll"
    assert form_of(Path("a.json"), "label-studio") == "label-studio"
    with pytest.raises(
        UsageError, match=r"the suffix of a\.json does not name the format: add --output-format jsonl\|csv"
    ):
        form_of(Path("a.json"), None)
