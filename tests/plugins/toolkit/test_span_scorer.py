"""The span head beside its formula, one span at a time; padding and stacking change nothing."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.plugins.contracts import WithRowInputs
from adaptdock.plugins.toolkit.span_scorer import SpanScorer

WIDTH, UNITS = 6, 5
GENERATOR = torch.Generator().manual_seed(0)


def weights(head: SpanScorer, rows: int = 1) -> dict[str, Tensor]:
    shapes = {name: parameter.shape for name, parameter in head.parameters(WIDTH).items()}
    return {name: torch.randn(rows, *shape, generator=GENERATOR) for name, shape in shapes.items()}


def applied(head: SpanScorer, parameters: dict[str, Tensor], states: Tensor, firsts: list, lasts: list) -> Tensor:
    inputs = {"firsts": torch.tensor(firsts), "lasts": torch.tensor(lasts)}
    return head.apply(parameters, WithRowInputs(states, inputs), torch.ones(states.shape[:2]))


def test_each_span_has_the_score_of_the_formula_and_spans_past_the_end_have_none() -> None:
    head = SpanScorer(classes=3, lengths=2, units=UNITS)
    parameters, states = weights(head), torch.randn(1, 7, WIDTH, generator=GENERATOR)
    firsts, lasts = [1, 3, 4], [2, 3, 5]
    scores = applied(head, parameters, states, [firsts], [lasts])[0]
    one = {name: tensor[0] for name, tensor in parameters.items()}
    for first in range(3):
        for more in range(2):
            if first + more > 2:
                assert not scores[first, more].any()
                continue
            inner = one["first"] @ states[0, firsts[first]] + one["last"] @ states[0, lasts[first + more]]
            hidden = functional.gelu(inner + one["hidden_bias"] + one["length"][more])
            torch.testing.assert_close(scores[first, more], one["weight"] @ hidden + one["bias"])


def test_a_row_beside_a_longer_one_has_the_scores_and_the_shape_that_it_has_alone() -> None:
    head = SpanScorer(classes=3, lengths=3, units=UNITS)
    parameters, states = weights(head), torch.randn(2, 7, WIDTH, generator=GENERATOR)
    long, short = [1, 2, 3, 4, 5], [1, 2]
    padded = [*short, -1, -1, -1]
    both = applied(head, parameters, states, [long, padded], [long, padded])
    alone = applied(head, parameters, states[1:], [short], [short])
    assert head.trim(both[1], 4).shape == (4, 3, 3)
    torch.testing.assert_close(head.trim(both[1], 4), head.trim(alone[0], 4))


def test_heads_of_other_sizes_are_computed_in_one_operation() -> None:
    small, large = SpanScorer(2, 2, UNITS), SpanScorer(4, 3, UNITS)
    assert small.stack_key == large.stack_key
    parts = [weights(small), weights(large)]
    stacked = {
        name: torch.cat([functional.pad(part[name], _missing(part[name], parts[1][name])) for part in parts])
        for name in parts[0]
    }
    states, positions = torch.randn(2, 5, WIDTH, generator=GENERATOR), [[1, 2, 3]] * 2
    both = applied(small, stacked, states, positions, positions)
    for number, (head, part) in enumerate(zip((small, large), parts, strict=True)):
        alone = applied(head, part, states[number : number + 1], positions[:1], positions[:1])
        torch.testing.assert_close(head.trim(both[number], 5), head.trim(alone[0], 5))


def test_candidates_are_all_labelled_spans_and_an_equal_share_of_the_others_of_each_length() -> None:
    head, words = SpanScorer(classes=2, lengths=3, units=UNITS), 70
    states = torch.randn(2, words + 1, WIDTH, generator=GENERATOR)
    positions = [list(range(1, words + 1)), [*range(1, 4), *[-1] * (words - 3)]]
    labels = torch.tensor([[words, 5, 2, 1, 6, 0, 0, 5, 2, 0], [3, 1, 1, 0, *[-100] * 6]])
    inputs = {"firsts": torch.tensor(positions), "lasts": torch.tensor(positions)}
    vectors, targets, rows = head.candidates(WithRowInputs(states, inputs), labels)
    begin, end, sizes = vectors.split([WIDTH, WIDTH, 3], dim=1)
    spans = {
        (int(row), int((states[row] == first).all(1).nonzero()), int((states[row] == last).all(1).nonzero())): target
        for row, first, last, target in zip(rows, begin, end, targets.tolist(), strict=True)
    }
    assert {span: target for span, target in spans.items() if any(target)} == {
        (0, 6, 8): [1, 1],
        (0, 7, 7): [1, 0],
        (1, 2, 3): [1, 0],
    }
    assert all(last - first < 3 and last <= (words if row == 0 else 3) for row, first, last in spans)
    of_length = [sum(last - first == more for row, first, last in spans if row == 0) for more in range(3)]
    assert all(9 <= count <= 12 for count in of_length)
    assert torch.equal(sizes.argmax(1), torch.tensor([last - first for _, first, last in spans]))


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_a_linear_map_is_a_head_and_with_more_classes_than_pairs_of_units_the_nearest_one(classes: int) -> None:
    head = SpanScorer(classes, lengths=2, units=UNITS)
    weight, bias = torch.randn(classes, 2 * WIDTH + 2, generator=GENERATOR), torch.randn(classes, generator=GENERATOR)
    if classes > UNITS // 2:
        weight = weight[:, :2] @ torch.randn(2, weight.shape[1], generator=GENERATOR)  # a map of rank 2
    parameters = {name: tensor.unsqueeze(0) for name, tensor in head.of_linear(weight, bias, 0).items()}
    assert {name: tuple(tensor.shape[1:]) for name, tensor in parameters.items()} == {
        name: parameter.shape for name, parameter in head.parameters(WIDTH).items()
    }
    states = torch.randn(1, 3, WIDTH, generator=GENERATOR)
    scores = applied(head, parameters, states, [[0, 1, 2]], [[0, 1, 2]])
    for first, more in ((0, 0), (0, 1), (1, 1), (2, 0)):
        length = torch.eye(2)[more] * math.sqrt(WIDTH)
        vector = torch.cat([states[0, first], states[0, first + more], length])
        torch.testing.assert_close(scores[0, first, more], weight @ vector + bias, atol=1e-4, rtol=1e-4)


def _missing(tensor: Tensor, target: Tensor) -> list[int]:
    return [
        size for have, want in zip(tensor.shape[::-1], target.shape[::-1], strict=True) for size in (0, want - have)
    ]


def test_an_untrained_head_expects_one_percent() -> None:
    bias = torch.empty(3)
    SpanScorer(3, 2, UNITS).parameters(WIDTH)["bias"].start(bias, GENERATOR)
    assert math.isclose(bias.sigmoid()[0], 0.01, rel_tol=1e-5)
