"""An LSTM made of linear maps computes what torch's own does in one kernel."""

import pytest
import torch
from torch import Tensor, nn

from adaptdock.backbones.recurrent.lstm import LSTM, State

ROWS, STEPS, INPUTS, WIDTH = 3, 7, 5, 6


def both(projection: int = 0, backward: bool = False) -> tuple[LSTM, nn.LSTM]:
    """The same weights in ours and in torch's."""
    torch.manual_seed(0)
    theirs = nn.LSTM(INPUTS, WIDTH, batch_first=True, proj_size=projection)
    mine = LSTM(INPUTS, WIDTH, projection or None, backward=backward)
    with torch.no_grad():
        mine.input.weight.copy_(theirs.weight_ih_l0)
        mine.input.bias.copy_(theirs.bias_ih_l0)
        mine.recurrent.weight.copy_(theirs.weight_hh_l0)
        mine.recurrent.bias.copy_(theirs.bias_hh_l0)
        if projection:
            mine.projection.weight.copy_(theirs.weight_hr_l0)
    return mine.eval(), theirs.eval()


def given() -> tuple[Tensor, Tensor]:
    x = torch.randn(ROWS, STEPS, INPUTS, generator=torch.Generator().manual_seed(1))
    return x, torch.ones(ROWS, STEPS, dtype=torch.long)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("projection", [0, 4])
@torch.no_grad()
def test_it_equals_the_lstm_of_torch(projection: int) -> None:
    mine, theirs = both(projection)
    x, mask = given()
    found, end = mine(x, mask)
    expected, (hidden, cell) = theirs(x)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(end.hidden, hidden[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(end.cell, cell[0], atol=1e-6, rtol=0)


@torch.no_grad()
def test_backwards_it_equals_the_lstm_of_torch_on_the_reversed_steps() -> None:
    mine, theirs = both(backward=True)
    x, mask = given()
    found, _ = mine(x, mask)
    torch.testing.assert_close(found, theirs(x.flip(1))[0].flip(1), atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_state_that_is_given_is_where_it_goes_on() -> None:
    mine, _ = both()
    x, mask = given()
    whole, _ = mine(x, mask)
    first, state = mine(x[:, :4], mask[:, :4])
    rest, _ = mine(x[:, 4:], mask[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole, atol=1e-6, rtol=0)
    fresh, _ = mine(x[:, 4:], mask[:, 4:])
    assert not torch.allclose(fresh, rest, atol=1e-3)


@pytest.mark.parametrize("backward", [False, True])
@torch.no_grad()
def test_steps_that_are_masked_on_either_side_change_nothing(backward: bool) -> None:
    mine, _ = both(backward=backward)
    x, mask = given()
    alone, end = mine(x[1:2, 2:5], mask[1:2, 2:5])
    mask[1, :2] = mask[1, 5:] = 0
    found, ends = mine(x, mask)
    torch.testing.assert_close(found[1:2, 2:5], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(ends.hidden[1:2], end.hidden, atol=1e-6, rtol=0)
    torch.testing.assert_close(ends.cell[1:2], end.cell, atol=1e-6, rtol=0)


def test_weight_dropout_drops_the_same_weights_at_each_step_of_a_pass_and_others_in_the_next() -> None:
    mine, theirs = both()
    mine.weight_dropout = 0.5
    x, mask = given()
    mine.train()
    torch.manual_seed(3)
    found, _ = mine(x, mask)
    torch.manual_seed(3)
    left = nn.functional.dropout(mine.recurrent.weight, 0.5)
    with torch.no_grad():
        theirs.weight_hh_l0.copy_(left)
    torch.testing.assert_close(found, theirs(x)[0], atol=1e-6, rtol=0)
    assert not torch.allclose(mine(x, mask)[0], found, atol=1e-3)
    found.sum().backward()
    gradient = mine.recurrent.weight.grad
    assert gradient is not None
    assert torch.equal(gradient == 0, left == 0)


@torch.no_grad()
def test_cell_and_projection_are_clipped() -> None:
    mine, _ = both(projection=4)
    x, mask = given()
    mine.cell_clip, mine.projection_clip = 0.05, 0.02
    found, end = mine(10 * x, mask, State(torch.zeros(ROWS, 4), torch.full((ROWS, WIDTH), 9.0)))
    assert end.cell.abs().max() <= 0.05
    assert found.abs().max() <= 0.02
