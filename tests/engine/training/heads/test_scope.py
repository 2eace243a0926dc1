"""Texts out of scope by distance: taken where it separates better than scores, and stored with the adapter."""

from typing import Any

import pytest
import torch
from builders import build_adapter

from adaptdock.engine.core.assembly import entry, make_task
from adaptdock.engine.evaluation.measurement import Evaluation, evaluate
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.heads.scope import with_distance
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone

OPTIONS = {"labels": ("ada", "bob"), "vector_length": "unit", "out_of_scope": "none"}
WORDS = ("lives in rome", "saw oslo", "met eva", "in paris")
TRAIN = [{"text": f"{name} {rest}", "label": name} for name in ("ada", "bob") for rest in WORDS]
OUTSIDE = [
    {"text": text, "label": None, "out_of_scope": True} for text in ("nothing here at all", "at all we", "here nothing")
]


@pytest.fixture
def uncertain(backbone: Backbone) -> AdapterFile:
    """An adapter whose scores are all one half."""
    adapter = build_adapter(backbone, "lora", {"rank": 2}, labels=OPTIONS["labels"], task="classification")
    for name in ("head.weight", "head.bias"):
        adapter.tensors[name].zero_()
    task = make_task("classification", OPTIONS)
    return AdapterFile(
        adapter.card.model_copy(update={"task": entry("task", "classification", task.options)}), adapter.tensors
    )


def run(dock: Dock, adapter: AdapterFile, **more: Any) -> AdapterFile:
    task: Any = make_task("classification", {**OPTIONS, **more})
    splits = {"train": TRAIN, "validation": [*TRAIN, *OUTSIDE]}

    def measure(candidate: AdapterFile) -> Evaluation:
        return evaluate(dock, candidate, splits["validation"])

    evaluation = measure(adapter)
    settled = task.settle(splits["validation"], evaluation.digests)
    return with_distance(dock, adapter, task, settled, splits, evaluation, measure, dict)


def test_an_adapter_that_scores_cannot_separate_measures_distances(
    backbone: Backbone, dock: Dock, uncertain: AdapterFile
) -> None:
    scoped = run(dock, uncertain)
    options = scoped.card.task.options
    assert -1 < options["nearest_class"]["reject_below"] < 1
    assert scoped.tensors["head.centres"].shape == (2, backbone.width)
    torch.testing.assert_close(scoped.tensors["head.centres"].norm(dim=-1), torch.ones(2))
    metrics = evaluate(dock, scoped, [*TRAIN, *OUTSIDE]).metrics
    assert metrics["out_of_scope_auroc"] > 50
    texts = [record["text"] for record in (*TRAIN, *OUTSIDE)]
    answers = dock.predict(dock.dock(scoped), texts)
    limit = options["nearest_class"]["reject_below"]
    assert [answer["label"] is None for answer in answers] == [answer["similarity"] < limit for answer in answers]
    assert sum(answer["label"] is None for answer in answers[len(TRAIN) :]) >= 1
    mixed = dock.predict([dock.dock(uncertain, "plain"), scoped.card.name], [texts[0], texts[0]])
    assert mixed[1]["similarity"] == pytest.approx(answers[0]["similarity"], abs=1e-4)
    assert "similarity" not in mixed[0]


def test_scores_stay_where_they_are_as_good_or_where_a_person_has_set_the_limit(
    dock: Dock, uncertain: AdapterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(dock, uncertain, reject_below=0.3) is uncertain
    monkeypatch.setattr(type(make_task("classification", OPTIONS)), "separation", lambda *arguments: 75.0)
    assert run(dock, uncertain) is uncertain
