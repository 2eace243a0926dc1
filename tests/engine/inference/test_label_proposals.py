"""Proposals of texts to label: uncertain ones, spread over the vectors, for tasks with labels only."""

import pytest
import torch

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.inference.label_proposals import check_labelling, spread
from adaptdock.errors import UsageError


def test_proposals_are_spread_over_the_groups_of_vectors_and_prefer_uncertain_texts() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3).repeat_interleave(10, 0)
    vectors = centres + 0.01 * torch.randn(30, 3, generator=generator)
    margins = [0.1] * 10 + [0.2] * 10 + [0.3] * 10
    chosen = spread(vectors, margins, 3, seed=0)
    assert [number // 10 for number in chosen] == [0, 1, 2]  # one of each group, the least certain first
    line = torch.tensor([[0.0], [1.0]])
    assert spread(line, [0.0, 0.999], 1, seed=0) == [0]  # the centre is where the weight is


def test_equal_vectors_are_filled_up_with_the_least_certain_texts() -> None:
    chosen = spread(torch.ones(4, 2), [0.4, 0.1, 0.3, 0.2], 3, seed=0)
    assert len(set(chosen)) == 3
    assert {1, 3} <= set(chosen)


def test_tasks_without_labels_are_refused() -> None:
    check_labelling(make_task("ner", {}), "ner")
    with pytest.raises(UsageError, match="regression"):
        check_labelling(make_task("regression", {}), "regression")
