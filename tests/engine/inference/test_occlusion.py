"""Occlusion beside one prediction at a time of the text without the word."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from builders import build_adapter

from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.occlusion import ELLIPSIS, explain
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone

TEXT = "ada lives in rome"


@contextmanager
def mask_token(backbone: Backbone, mask: str | None) -> Iterator[None]:
    """Change the mask token; the tokenizer has no plain attribute that monkeypatch could restore."""
    before = backbone.tokenizer.mask_token
    backbone.tokenizer.mask_token = mask
    try:
        yield
    finally:
        backbone.tokenizer.mask_token = before


def probability(dock: Dock, name: str, text: str, label: str) -> float:
    (prediction,) = dock.predict(name, [text])
    return float(prediction["scores"][label])


@pytest.mark.parametrize("mask", ["[MASK]", None])
def test_the_effect_of_a_word_is_the_change_of_the_log_probability_without_it(
    dock: Dock, backbone: Backbone, mask: str | None
) -> None:
    name = dock.dock(build_adapter(backbone, "lora", labels=("a", "b"), task="classification"), "topic")
    with mask_token(backbone, mask):
        (explanation,) = explain(dock, name, TEXT, batch_size=3)
    label = explanation.decision.label
    assert label == dock.predict(name, [TEXT])[0]["label"]
    without = [f"{mask} lives in rome", f"ada lives {mask} rome"] if mask else ["lives in rome", "ada lives rome"]
    before = math.log(probability(dock, name, TEXT, label))
    assert explanation.log_probability == pytest.approx(before, abs=2e-3)
    for word, text in zip((explanation.words[0], explanation.words[2]), without, strict=True):
        assert word.effect == pytest.approx(before - math.log(probability(dock, name, text, label)), abs=4e-3)
    assert [word.text for word in explanation.words] == TEXT.split()


def test_each_entity_is_explained_by_the_log_probability_of_its_tags(dock: Dock, backbone: Backbone) -> None:
    name = dock.dock(build_adapter(backbone, "lora", labels=("LOC", "PER"), seed=3), "people")
    (prediction,) = dock.predict(name, [TEXT])
    explanations = explain(dock, name, TEXT)
    assert prediction["entities"]
    spans = [(entity["label"], entity["start"], entity["end"]) for entity in prediction["entities"]]
    assert [(e.decision.label, e.decision.start, e.decision.end) for e in explanations] == spans
    for explanation, entity in zip(explanations, prediction["entities"], strict=True):
        words = len(entity["text"].split())
        if words == 1:
            assert math.exp(explanation.log_probability) == pytest.approx(entity["score"], abs=1e-3)
        assert len(explanation.words) == 4


def test_a_backbone_without_a_mask_token_gets_dots_in_the_place_of_a_tagged_word(
    dock: Dock, backbone: Backbone
) -> None:
    name = dock.dock(build_adapter(backbone, "lora", labels=("LOC", "PER"), seed=3), "people")
    masked = explain(dock, name, TEXT)
    with mask_token(backbone, None):
        dotted = explain(dock, name, TEXT)
    assert ELLIPSIS == "..."
    assert [e.decision for e in masked] == [e.decision for e in dotted]
    assert [w.effect for w in masked[0].words] != [w.effect for w in dotted[0].words]


def test_the_strongest_words_keep_the_order_of_the_text(dock: Dock, backbone: Backbone) -> None:
    name = dock.dock(build_adapter(backbone, "lora", labels=("a", "b"), task="classification"), "topic")
    (explanation,) = explain(dock, name, TEXT)
    strongest = explanation.strongest(2)
    assert [word.start for word in strongest] == sorted(word.start for word in strongest)
    least = min(abs(word.effect) for word in strongest)
    assert sum(abs(word.effect) > least for word in explanation.words) == 1


def test_an_empty_text_has_an_answer_without_words(dock: Dock, backbone: Backbone) -> None:
    name = dock.dock(build_adapter(backbone, "lora", labels=("a", "b"), task="classification"), "topic")
    (explanation,) = explain(dock, name, "")
    assert explanation.words == ()
    people = dock.dock(build_adapter(backbone, "lora"), "people")
    assert explain(dock, people, "") == []


def test_a_task_without_words_to_leave_out_is_refused_with_the_tasks_that_have_them(
    dock: Dock, backbone: Backbone
) -> None:
    adapter = build_adapter(backbone, "lora", labels=("a", "b"), task="classification")
    card = adapter.card.model_copy(
        update={"task": adapter.card.task.model_copy(update={"name": "regression", "options": {}})}
    )
    tensors = {
        key: value[:1] if key.startswith("head.") and value.shape[0] == 2 else value
        for key, value in adapter.tensors.items()
    }
    name = dock.dock(type(adapter)(card, tensors), "score")
    with pytest.raises(UsageError, match=r"'score'.* regression.*classification.*ner"):
        explain(dock, name, TEXT)
