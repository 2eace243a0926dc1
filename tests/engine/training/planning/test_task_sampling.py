"""How often each task comes up when several are trained together."""

import pytest

from adaptdock.engine.training.planning.task_sampling import drawn, draws, shares


def test_shares_are_sizes_to_the_power_of_one_over_the_temperature() -> None:
    sizes = [1000, 10]
    assert shares(sizes, [1, 1], "proportional", 5) == pytest.approx([1000 / 1010, 10 / 1010])
    assert shares(sizes, [1, 1], "uniform", 5) == [0.5, 0.5]
    powers = [1000 ** (1 / 5), 10 ** (1 / 5)]
    assert shares(sizes, [1, 1], "temperature", 5) == pytest.approx([power / sum(powers) for power in powers])
    assert shares(sizes, [1, 1], "temperature", 1) == pytest.approx(shares(sizes, [1, 1], "proportional", 5))
    assert shares(sizes, [1, 3], "uniform", 5) == [0.25, 0.75]


def test_an_epoch_has_as_many_units_as_there_are_divided_by_the_shares() -> None:
    assert draws([30, 10], [0.75, 0.25]) == [30, 10]
    assert draws([7, 2, 1], [1 / 3, 1 / 3, 1 / 3]) == [4, 3, 3]
    assert draws([1000, 1], [0.9999999, 0.0000001]) == [1001, 1]  # none is left out


def test_no_unit_comes_again_before_all_have_come_in_whatever_epoch() -> None:
    taken = [place for epoch in range(10) for place in drawn(7, 3, epoch * 3, seed=4)]
    for start in range(0, 28, 7):
        assert sorted(taken[start : start + 7]) == list(range(7))
    assert taken[:7] != taken[7:14]
    assert drawn(7, 30, 0, seed=4) == taken
    assert drawn(7, 7, 0, seed=5) != taken[:7]
