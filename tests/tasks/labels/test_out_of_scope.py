"""Texts out of scope: never a class, measured by their scores, rejected below a learnt threshold."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from adaptdock.engine.core.assembly import make_task
from adaptdock.errors import AdaptError, DataError
from adaptdock.tasks.labels.out_of_scope import best_threshold, scope_metrics


def record(number: int, label: Any) -> dict[str, Any]:
    return {"where": f"a.csv:{number}", "text": f"text {number}", "label": label}


ROWS = [record(1, "a"), record(2, "b"), record(3, "none"), record(4, "a")]


def test_a_named_label_is_left_out_of_training_and_marked_elsewhere() -> None:
    task = make_task("classification", {"out_of_scope": "none"})
    cleaned = task.clean(ROWS, "train")
    assert [row["label"] for row in cleaned.records] == ["a", "b", "a"]
    assert "train: 1 texts are out of scope (the label 'none' or none) and are not trained on: a.csv:3" in cleaned.notes
    fitted = task.fit(cleaned.records)
    assert fitted.options.labels == ("a", "b")
    for split in ("validation", "test"):
        cleaned = fitted.clean([*ROWS, record(5, None), record(6, "")], split)
        assert [row["label"] for row in cleaned.records] == ["a", "b", None, "a", None, None]
        fitted.check(cleaned.records, split)
        assert fitted.unknown(cleaned.records) == {}
        assert fitted.describe(cleaned.records)["out of scope"] == 3
        assert fitted.shown(cleaned.records[2]) == "[out of scope] text 3"
        assert [fitted.target(row) for row in cleaned.records] == [0, 1, -100, 0, -100, -100]
    assert [list(task.labels(row)) for row in [*ROWS, record(5, None)]] == [["a"], ["b"], [], ["a"], []]


def test_null_is_out_of_scope_in_test_data_where_others_have_a_label_and_missing_in_training_data() -> None:
    task = make_task("classification", {"labels": ("a", "b")})
    cleaned = task.clean([*ROWS[:2], record(3, None)], "test")
    assert [row["label"] for row in cleaned.records] == ["a", "b", None]
    assert cleaned.notes == ["test: 1 texts are out of scope (no label (null)): a.csv:3"]
    for rows, split in (
        ([*ROWS[:2], record(3, None)], "train"),
        ([record(1, None)], "test"),
        ([record(1, "")], "test"),
    ):
        with pytest.raises(DataError, match="--out-of-scope NAME"):
            task.clean(rows, split)
    with pytest.raises(AdaptError, match="multi_label"):
        make_task("classification", {"out_of_scope": "none", "multi_label": True})


def test_the_threshold_is_that_of_youden_on_the_roc_curve() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        outside = generator.random(40) < 0.4
        outside[:2] = True, False
        scores = np.clip(generator.normal(0.7 - 0.2 * outside, 0.15), 0.01, 0.99)
        threshold = best_threshold(scores.tolist(), outside.tolist())
        false, true, _ = roc_curve(~outside, scores)
        reached = (scores[~outside] >= threshold).mean() - (scores[outside] >= threshold).mean()
        assert reached == pytest.approx((true - false).max())
    assert best_threshold([0.4, 0.8], [True, False]) == pytest.approx(0.6)
    assert best_threshold([0.4, 0.8], [False, True]) == 0.0  # no threshold is better than none


def test_metrics_are_of_the_scores_and_rejected_texts_are_right_if_they_are_out_of_scope() -> None:
    task = make_task("classification", {"labels": ("a", "b"), "out_of_scope": "none", "reject_below": 0.5})
    rows = task.clean([*ROWS, record(5, "none")], "test").records
    scores = [0.9, 0.4, 0.3, 0.8, 0.7]
    predictions = [
        {"text": row["text"], "label": "a" if score >= 0.5 else None, "score": score, "scores": {"a": score}}
        for row, score in zip(rows, scores, strict=True)
    ]
    metrics = task.score(rows, predictions)
    assert metrics["accuracy"] == 60.0  # both of class a, and the rejected one that is out of scope
    assert metrics["accuracy_in_scope"] == 66.67
    assert metrics["out_of_scope_auroc"] == 83.33  # 5 of 6 pairs are in order
    assert metrics["out_of_scope_recall"] == 50.0  # at 0.4, the least score in scope
    assert scope_metrics(rows[:2], predictions[:2]) == {}
    assert task.outcome(rows[2], predictions[2]).pairs == (("(out of scope)", "(out of scope)"),)
    assert task.baseline(rows)["accuracy"] == 40.0


def test_the_threshold_is_learnt_from_validation_data_unless_it_is_given() -> None:
    task = make_task("classification", {"labels": ("a", "b"), "out_of_scope": "none"})
    rows = task.clean(ROWS, "validation").records
    digests = [[torch.tensor([3.0, 0.0])], [torch.tensor([0.0, 3.0])], [torch.tensor([0.3, 0.0])]]
    digests.append([torch.tensor([2.0, 0.0])])
    settled = task.settle(rows, digests)
    low, high = torch.sigmoid(torch.tensor(0.3)).item(), torch.sigmoid(torch.tensor(2.0)).item()
    assert settled.options.reject_below == pytest.approx((low + high) / 2)
    assert settled.decode(rows[2], [], digests[2])["label"] is None
    assert settled.decode(rows[3], [], digests[3])["label"] == "a"
    assert task.settle(rows[:2], digests[:2]).options.reject_below == 0
    chosen = make_task("classification", {"labels": ("a", "b"), "out_of_scope": "none", "reject_below": 0.2})
    assert chosen.settle(rows, digests).options.reject_below == 0.2


def test_a_threshold_of_the_distance_to_the_nearest_class_replaces_that_of_the_score() -> None:
    task = make_task("classification", {"labels": ("a", "b"), "out_of_scope": "none", "reject_below": 0.0})
    vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [-0.9, -0.1]])
    nearest, tensors = task.by_distance(vectors, torch.tensor([0, 0, 1, 1]))
    head = nearest.head()
    parameters = {"weight": torch.zeros(1, 2, 2), "bias": torch.zeros(1, 2)}
    parameters |= {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
    states = torch.tensor([[[2.0, 0.1]], [[0.0, 1.0]]])
    nearest = make_task("classification", {**nearest.options.model_dump(), "vector_length": "plain"})
    head = nearest.head()
    logits = head.apply(parameters, states, torch.ones(2, 1))
    centre = torch.nn.functional.normalize(torch.tensor([0.95, 0.05]), dim=0)
    expected = [torch.cosine_similarity(state[0], centre, dim=0).abs().item() for state in states]
    assert logits[:, 2].tolist() == pytest.approx(expected, abs=1e-6)
    padded = {name: torch.nn.functional.pad(p, (0, 0, 0, 3)) if p.ndim == 3 else p for name, p in parameters.items()}
    padded["bias"] = torch.zeros(1, 5)
    for row, whole in zip(head.apply(padded, states, torch.ones(2, 1)), logits, strict=True):
        torch.testing.assert_close(head.trim(row, 1), whole)
    rows = [{"text": "x", "label": "a"}, {"text": "y", "label": None, "out_of_scope": True}]
    digests = [[logits[0]], [logits[1]]]
    assert nearest.separation(rows, digests) == 100.0
    settled = nearest.settle(rows, digests)
    assert settled.options.nearest_class["reject_below"] == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert settled.decode(rows[0], [], digests[0])["label"] == "a"
    rejected = settled.decode(rows[1], [], digests[1])
    assert (rejected["label"], rejected["similarity"]) == (None, pytest.approx(expected[1], abs=1e-4))
    assert settled.loss(logits, torch.tensor([0, 1]), None).item() == pytest.approx(np.log(2))
    chosen = make_task("classification", {"labels": ("a", "b"), "reject_below": 0.2})
    assert chosen.separation(rows, digests) is None
