"""Checks by a frozen backbone: near duplicates by cosine, labels with their texts and words."""

from typing import Any

import torch
from torch.nn import functional

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.evaluation import frozen_checks
from adaptdock.engine.evaluation.frozen_checks import check_frozen, near_duplicates
from adaptdock.engine.inference.dock import Dock
from adaptdock.plugins.contracts import Backbone


def test_near_duplicates_are_the_nearest_earlier_texts_of_a_cosine_over_the_limit(monkeypatch: Any) -> None:
    monkeypatch.setattr(frozen_checks, "BLOCK", 2)
    vectors = functional.normalize(
        torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.02], [0.0, 1.0], [1.0, 0.0], [0.05, 1.0]]), dim=-1
    )
    texts = ["a", "b", "c", "d", "a", "e"]  # the fifth is an exact copy of the first
    labels = ["x", "x", "y", "x", "x", "x"]
    records: list[dict[str, Any]] = [
        {"where": str(number), "text": text, "label": label}
        for number, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    pairs = near_duplicates(vectors, records, make_task("classification", {}))
    assert [(pair.places, pair.labels_differ) for pair in pairs] == [
        (("0", "2"), True),
        (("2", "4"), True),
        (("3", "5"), False),
        (("0", "1"), False),
    ]
    assert pairs[0].texts == ("a", "c")
    assert abs(pairs[3].distance - (1 - 1 / 1.01**0.5)) < 1e-5


def test_labels_of_texts_and_words_are_checked_and_named(backbone: Backbone) -> None:
    texts = [f"{name} lives in {town}" for name in ("ada", "bob", "eva") for town in ("rome", "oslo", "paris", "lind")]
    records = [{"where": str(number), "text": text, "label": text[0]} for number, text in enumerate(texts)]
    records[5] = {**records[5], "label": "a"}  # of bob
    task = make_task("classification", {"vector_length": "unit"}).fit(records)
    findings = check_frozen(Dock(backbone), task, {"train": records}, 32)
    error = findings.label_errors[0]
    assert (error.place, error.label, error.suggestion, error.text) == ("5", "a", "b", texts[5])
    tags = {"ada": "B-PER", "bob": "B-PER", "eva": "B-PER", "lives": "O", "in": "O"}
    sentences = [
        {"where": str(n), "tokens": t.split(), "tags": [tags.get(w, "B-LOC") for w in t.split()]}
        for n, t in enumerate(texts)
    ]
    sentences[7]["tags"] = ["B-PER", "B-PER", "O", "B-LOC"]  # lives
    tagger = make_task("ner", {}).fit(sentences)
    findings = check_frozen(Dock(backbone), tagger, {"train": sentences[:6], "test": sentences[6:]}, 32)
    assert ("7", "lives", "B-PER", "O") in [
        (error.place, error.text, error.label, error.suggestion) for error in findings.label_errors
    ]


def test_a_task_without_one_class_each_says_that_labels_are_not_checked(backbone: Backbone) -> None:
    records = [{"where": "1", "text": "ada", "label": 1.0}, {"where": "2", "text": "bob", "label": 2.0}]
    findings = check_frozen(Dock(backbone), make_task("regression", {}), {"train": records}, 32)
    assert findings.label_errors == []
    assert "labels are not checked" in findings.notes[0]
