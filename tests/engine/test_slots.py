"""Slots: identity, padding, growth and reuse."""

import torch

from adaptdock.engine.slots import FIRST_CAPACITY, Index, Stack

CPU = torch.device("cpu")


def stack() -> Stack:
    return Stack(torch.float32, {"p": CPU, "q": CPU})


def test_slot_zero_is_all_zeros() -> None:
    made = stack()
    made.add({"p": {"a": torch.ones(2, 3)}})
    assert not made.gather("p", Index([0, 0]))["a"].any()


def test_smaller_tensors_are_padded_with_zeros_and_larger_ones_make_room() -> None:
    made = stack()
    small = made.add({"p": {"a": torch.ones(2, 3)}})
    large = made.add({"p": {"a": torch.full((4, 5), 2.0)}})
    found = made.gather("p", Index([small, large]))["a"]
    assert found.shape == (2, 4, 5)
    assert found[0, :2, :3].eq(1).all()
    assert found[0].sum() == 6
    assert found[1].eq(2).all()


def test_a_port_that_an_adapter_does_not_have_is_the_identity_for_it() -> None:
    made = stack()
    one = made.add({"p": {"a": torch.ones(2)}})
    other = made.add({"q": {"a": torch.ones(2)}})
    assert made.gather("p", Index([one, other]))["a"].tolist() == [[1, 1], [0, 0]]


def test_a_reused_slot_holds_nothing_of_the_adapter_before() -> None:
    made = stack()
    first = made.add({"p": {"a": torch.ones(4)}, "q": {"a": torch.ones(4)}})
    made.remove(first)
    second = made.add({"p": {"a": torch.full((2,), 3.0)}})
    assert second == first
    assert made.gather("p", Index([second]))["a"].tolist() == [[3, 3, 0, 0]]
    assert made.gather("q", Index([second]))["a"].tolist() == [[0, 0, 0, 0]]


def test_a_full_stack_grows_and_keeps_what_it_has() -> None:
    made = stack()
    slots = [made.add({"p": {"a": torch.full((2,), float(number))}}) for number in range(3 * FIRST_CAPACITY)]
    assert len(set(slots)) == len(slots) == len(made)
    assert made.gather("p", Index(slots))["a"][:, 0].tolist() == list(range(3 * FIRST_CAPACITY))


def test_rows_that_share_a_slot_get_one_row_of_parameters() -> None:
    made = stack()
    slot = made.add({"p": {"a": torch.ones(2)}})
    assert made.gather("p", Index([slot] * 5))["a"].shape == (1, 2)
    assert made.gather("p", Index([slot, 0]))["a"].shape == (2, 2)
