"""Embeddings: the bare backbone's at first, pairs and their negatives, recall."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import run_of, train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import DataError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone
from adaptdock.tasks.embedding import Embedding


def make(**options: Any) -> Embedding:
    return Embedding(Embedding.Options(**options))


def pairs(*rows: tuple[str, ...]) -> list[dict[str, Any]]:
    fields = ("text", "positive", "negative")
    return [{"where": f"a:{n}", **dict(zip(fields, row, strict=False))} for n, row in enumerate(rows, 1)]


def test_an_untrained_adapter_gives_the_mean_state_of_the_bare_backbone(
    backbone: Backbone, dock: Dock, tmp_path: Path
) -> None:
    made = plan(backbone, "embedding", "lora", Source(), {"epochs": 1})
    (run,) = run_of(made, tmp_path).members.tasks
    name = dock.dock(AdapterFile(run.card(0, {}), run.plan.assembly.start(torch.Generator().manual_seed(0))))
    texts = ["Where is my parcel?", "Are you open?"]
    given = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = backbone.model(**given)[0]
    mask = given["attention_mask"].unsqueeze(-1)
    expected = functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    found = torch.tensor([answer["embedding"] for answer in dock.predict(name, texts)])
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_sample_is_learnt(backbone: Backbone, tmp_path: Path) -> None:
    made = plan(backbone, "embedding", "lora", Source(), {"epochs": 3, "learning_rate": 1e-2})
    losses = [entry["loss"] for entry in train_plan(made, tmp_path).history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_the_texts_of_a_pair_stand_in_one_batch(backbone: Backbone) -> None:
    made = plan(backbone, "embedding", "lora", Source(), {"epochs": 1})
    assert all(len({feature.labels[2] for feature in unit}) == 1 for unit in made.units)
    assert {len(unit) for unit in made.units} <= {1, 2}
    assert max(map(len, made.units)) == 2


def test_the_loss_is_that_of_sentence_transformers() -> None:
    """Each anchor against every positive and hard negative: cross entropy of 20 times the cosines."""
    task = make()
    (cleaned,) = [task.clean(pairs(("a", "b", "x"), ("c", "d", "y")), "train").records]
    labels = torch.tensor(
        [
            [r["numbers"][name], role, r["unit"]]
            for r in cleaned
            for role, name in enumerate(("text", "positive", "negative"))
        ]
    )
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    unit = functional.normalize(vectors, dim=-1)
    anchors, candidates = unit[[0, 3]], unit[[1, 4, 2, 5]]
    expected = functional.cross_entropy(20 * anchors @ candidates.T, torch.tensor([0, 1]))
    assert torch.allclose(task.loss(vectors, labels, None), expected, atol=1e-6)


def test_texts_that_belong_together_are_no_negatives() -> None:
    task = make()
    records = task.clean(pairs(("a", "b"), ("b", "c"), ("d", "e")), "train").records
    numbers = [record["numbers"]["text"] for record in records]
    assert numbers[0] == numbers[1] != numbers[2]


def test_recall_counts_the_nearest_of_the_same_label() -> None:
    task = make()
    labelled = [{"where": f"a:{n}", "text": text, "label": text[0]} for n, text in enumerate(["a1", "a2", "b1", "b2"])]
    records = task.clean(labelled, "test").records
    places = {"a1": [1.0, 0.0], "a2": [0.9, 0.1], "b1": [0.0, 1.0], "b2": [0.8, 0.6]}
    predictions = [{"embedding": places[record["text"]], "positive": places[record["positive"]]} for record in records]
    scores = task.score(records, predictions)
    assert scores["recall@1"] == 75.0  # the nearest of b2 is a2
    assert scores["recall@5"] == 100.0


def test_scores_of_pairs_are_ranked() -> None:
    task = make()
    given = [
        {**row, "score": score} for row, score in zip(pairs(("a", "b"), ("c", "d"), ("e", "f")), (5, 1, 3), strict=True)
    ]
    cleaned = task.clean(given, "test")
    assert "test: scores read as 0 to 5" in cleaned.notes
    near = [{"embedding": [1.0, 0.0], "positive": [x, 0.0]} for x in (0.9, 0.1, 0.5)]
    assert task.score(cleaned.records, near)["spearman"] == 100.0
    with pytest.raises(DataError, match=r"a:1: the score 7 is not in 0 to 5"):
        task.clean([{**given[0], "score": 7}, *given[1:]], "test")


def test_data_that_tells_nothing_apart_is_refused() -> None:
    with pytest.raises(DataError, match="a text alone"):
        make().clean([{"where": "a:1", "text": "x"}], "train")
    with pytest.raises(DataError, match="all texts belong together"):
        make().clean(pairs(("a", "b")), "train")
    with pytest.raises(DataError, match="a:2: no second text"):
        make().clean([*pairs(("a", "b")), {"where": "a:2", "text": "c"}], "train")
