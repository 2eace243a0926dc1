"""Heads that tasks share: what they make of the states of a row."""

import warnings

import pytest
import torch

from adaptdock.plugins.toolkit.heads import SequenceHead

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])


def states() -> torch.Tensor:
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))


def weights(head: SequenceHead, rows: int = 1) -> dict[str, torch.Tensor]:
    shapes = {name: found.shape for name, found in head.parameters(5).items()}
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, *shape, generator=generator) for name, shape in shapes.items()}


def test_concat_pooling_is_the_last_state_the_greatest_values_and_the_mean() -> None:
    head, hidden = SequenceHead(2, "concat"), states()
    given = weights(head)
    found = head.apply(given, hidden, MASK)
    for row, length in enumerate(MASK.sum(1).tolist()):
        own = hidden[row, :length]
        pooled = torch.cat([own[-1], own.max(0).values, own.mean(0)])
        torch.testing.assert_close(found[row], given["weight"][0] @ pooled + given["bias"][0])


@pytest.mark.filterwarnings("ignore")
def test_concat_pooling_is_that_of_fastai() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("fastai", reason="fastai is not installed: the Makefile has the line")
        from fastai.text.models.core import masked_concat_pool
    head, hidden = SequenceHead(15, "concat"), states()
    given = {"weight": torch.eye(15)[None], "bias": torch.zeros(1, 15)}
    found = head.apply(given, hidden, MASK)
    torch.testing.assert_close(found, masked_concat_pool(hidden, MASK == 0, 100))


@pytest.mark.parametrize("pooling", ["mean", "concat"])
def test_what_is_masked_does_not_count(pooling: str) -> None:
    head, hidden = SequenceHead(2, pooling), states()  # type: ignore[arg-type]
    given = weights(head)
    found = head.apply(given, hidden, MASK)
    other = torch.where(MASK.unsqueeze(-1) == 1, hidden, torch.full_like(hidden, 9.0))
    assert torch.equal(head.apply(given, other, MASK), found)


def test_heads_that_pool_differently_are_not_computed_in_one_operation() -> None:
    assert SequenceHead(2).stack_key != SequenceHead(2, "concat").stack_key
    assert SequenceHead(2, "concat").parameters(5)["weight"].shape == (2, 15)


def test_of_vectors_of_one_length_the_direction_alone_counts() -> None:
    unit, plain, hidden = SequenceHead(2, length="unit"), SequenceHead(2), states()
    mask = torch.ones(hidden.shape[:2])
    given = weights(unit, len(hidden))
    assert torch.allclose(unit.apply(given, hidden, mask), unit.apply(given, 3 * hidden, mask), atol=1e-5)
    assert not torch.allclose(plain.apply(given, hidden, mask), plain.apply(given, 3 * hidden, mask), atol=1e-3)
    read = unit.vectors(hidden, mask)
    assert read is not None
    assert torch.allclose(read.pow(2).mean(-1), torch.ones(len(hidden)), atol=1e-5)
    assert unit.stack_key != plain.stack_key
