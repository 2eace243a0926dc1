"""Learning from pairs: the supervised contrastive loss, batches with several texts of a class, and the fitted head."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.heads.pairs import TEMPERATURE, pair_loss, paired_order
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.planning.run_plan import RunPlan
from adaptdock.engine.training.train import carry_out
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import Backbone


def reference(vectors: torch.Tensor, labels: list[int]) -> float:
    """Equation 2 of arXiv:2004.11362, term by term."""
    terms = []
    for i, anchor in enumerate(vectors):
        others = [j for j in range(len(labels)) if j != i]
        cosines = {j: functional.cosine_similarity(anchor, vectors[j], dim=0) / TEMPERATURE for j in others}
        total = sum(value.exp() for value in cosines.values())
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            terms.append(-sum((cosines[j].exp() / total).log() for j in positives) / len(positives))
    return float(sum(terms) / len(terms))


def test_the_loss_is_that_of_the_paper() -> None:
    vectors, labels = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), [0, 1, 0, 2, 1, 0, 3]
    assert float(pair_loss(vectors, torch.tensor(labels))) == pytest.approx(reference(vectors, labels), rel=1e-5)


def test_a_row_without_a_label_is_no_pair() -> None:
    vectors = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = pair_loss(vectors, torch.tensor([-100, -100, 0, 1]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert vectors.grad is not None
    assert not vectors.grad.any()


@pytest.mark.parametrize(("classes", "each", "rows"), [(2, 8, 8), (20, 4, 16), (3, 5, 4)])
def test_batches_hold_several_texts_of_a_class_and_an_epoch_holds_each_text_once(
    classes: int, each: int, rows: int
) -> None:
    labels = [number % classes for number in range(classes * each)]
    order = paired_order(labels, rows, 0)
    assert sorted(order) == list(range(len(labels)))
    assert order != paired_order(labels, rows, 1)
    for start in range(0, len(order) - rows + 1, rows):
        batch = [labels[place] for place in order[start : start + rows]]
        assert len(set(batch)) < len(batch)


def carried_out(training_plan: Plan, folder: Path, **options: Any) -> Result:
    """Train one task with everything that a run of few labels does."""
    (result,) = carry_out(RunPlan.of(training_plan), folder, **options).values()
    return result


def texts(folder: Path, labels: Any = ("x", "y")) -> str:
    rows = [{"text": f"{'ab'[n % 2]} {'cdefgh'[n // 2 % 6]}", "label": labels[n % 2]} for n in range(24)]
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def planned(backbone: Backbone, file: str, task: str = "classification", **options: Any) -> Plan:
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "learn_from": "pairs", **options}
    return plan(backbone, task, "lora", Source(train=file), settings)


@pytest.mark.parametrize("hold_out", ["auto", "always"])
def test_pairs_move_the_adapter_and_the_head_is_fitted_on_its_vectors(
    backbone: Backbone, tmp_path: Path, hold_out: str
) -> None:
    result = carried_out(planned(backbone, texts(tmp_path), hold_out=hold_out), tmp_path / "run")
    card = result.adapter.card
    assert card.training["options"]["learn_from"] == "pairs"
    metrics = next(iter(card.metrics.values()))
    assert metrics["accuracy"] == 100
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_what_has_no_single_class_cannot_be_compared(backbone: Backbone, tmp_path: Path) -> None:
    for task, labels, options in (
        ("regression", (1.0, 2.0), {}),
        ("classification", ("x", "y"), {"head_start": "random"}),
    ):
        with pytest.raises(UsageError, match="--learn-from pairs compares texts by their one class"):
            planned(backbone, texts(tmp_path, labels), task, **options)
