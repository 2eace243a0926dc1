"""The share of its trained change that an adapter keeps: the one-standard-error rule on answers to the same records."""

from typing import Any

import pytest
import torch

from adaptdock.engine.training.heads.adapter_shares import choose_share, interpolated
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.regression import Regression

CLASSES = Classification(Classification.Options(labels=("x", "y")))


def answers(right: int, count: int = 40, first: int = 0) -> list[dict[str, Any]]:
    """Answers to texts that all have the label x, of which ``right`` from ``first`` on are right."""
    return [{"text": "a", "label": "x" if first <= n < first + right else "y", "score": 1.0} for n in range(count)]


def chosen(**right: list[dict[str, Any]]) -> float:
    records = [{"text": "a", "label": "x"}] * len(next(iter(right.values())))
    by_share = {{"none": 0.0, "half": 0.5, "all": 1.0}[name]: predictions for name, predictions in right.items()}
    return choose_share(CLASSES, records, by_share).share


def test_the_best_share_is_kept_if_it_is_better_than_the_fitted_head_beyond_a_standard_error() -> None:
    assert chosen(none=answers(30), half=answers(30), all=answers(30)) == 0
    assert chosen(none=answers(20), half=answers(36), all=answers(35)) == 0.5
    assert chosen(none=answers(20), half=answers(36), all=answers(36)) == 1
    assert chosen(none=answers(20), half=answers(28), all=answers(38)) == 1
    assert chosen(none=answers(38), half=answers(28), all=answers(20)) == 0
    assert chosen(none=answers(30), half=answers(30, first=9), all=answers(31, first=9)) == 0


def test_a_difference_counts_by_the_records_on_which_both_differ() -> None:
    """Two more right answers: beyond a standard error where nothing else differs, within it where 14 answers do."""
    assert chosen(none=answers(30), all=answers(32)) == 1
    assert chosen(none=answers(30), all=answers(32, first=8)) == 0


def test_a_lower_error_is_better_where_lower_is_better() -> None:
    task = Regression(Regression.Options())
    records = [{"text": "a", "label": float(number)} for number in range(30)]
    near = [{"text": "a", "value": number + 0.1 * (-1) ** number} for number in range(30)]
    far = [{"text": "a", "value": number + 3.0 * (-1) ** number} for number in range(30)]
    assert choose_share(task, records, {0.0: far, 1.0: near}).share == 1
    assert choose_share(task, records, {0.0: near, 1.0: far}).share == 0


def test_weights_lie_between_the_start_and_the_trained_ones() -> None:
    start, trained = {"a": torch.zeros(2)}, {"a": torch.tensor([2.0, -4.0], dtype=torch.float16)}
    assert interpolated(start, trained, 0)["a"].tolist() == [0, 0]
    assert interpolated(start, trained, 0.5)["a"].tolist() == pytest.approx([1, -2])
    assert torch.equal(interpolated(start, trained, 1)["a"], trained["a"].float())
