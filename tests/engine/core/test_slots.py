"""Slots: layout, padding, the identity, and what is stacked for a batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.engine.core import slots
from adaptdock.engine.core.slots import Gathered, Stacks, Tensors, roomy

CPU = torch.device("cpu")
GROWS = {"a": 0}


def stack_of(stacks: Stacks, tensors: Tensors) -> slots.Stack:
    return stacks.for_tensors("lora", tensors, GROWS, {"p": CPU, "q": CPU})


@given(st.integers(1, 5000))
def test_room_is_enough_and_never_half_as_much_again(extent: int) -> None:
    assert extent <= roomy(extent) <= max(extent, 1.5 * (extent - 1))


def test_tensors_of_like_size_share_a_stack_and_are_padded_with_zeros() -> None:
    stacks = Stacks()
    small, large = {"p": {"a": torch.ones(5, 3)}}, {"p": {"a": torch.full((6, 3), 2.0)}}
    stack = stack_of(stacks, small)
    assert stack is stack_of(stacks, large)
    found = Gathered([stack.pack(small), stack.pack(large)], torch.float32).at("p")["a"]
    assert found.shape == (2, 6, 3)
    assert found[0, :5].eq(1).all()
    assert not found[0, 5:].any()
    assert found[1].eq(2).all()


@pytest.mark.parametrize(
    "other",
    [{"p": {"a": torch.ones(50, 3)}}, {"q": {"a": torch.ones(5, 3)}}, {"p": {"a": torch.ones(5, 3).half()}}],
    ids=["size", "place", "precision"],
)
def test_tensors_of_another_kind_have_a_stack_of_their_own(other: Tensors) -> None:
    stacks = Stacks()
    assert stack_of(stacks, {"p": {"a": torch.ones(5, 3)}}) is not stack_of(stacks, other)


def test_a_dimension_that_does_not_grow_is_never_padded() -> None:
    stack = Stacks().for_tensors("lora", {"p": {"b": torch.ones(5, 7)}}, GROWS, {"p": CPU})
    assert Gathered([stack.identity] * 2, torch.float32).at("p")["b"].shape == (1, 5, 7)


def test_the_identity_is_all_zeros_beside_others() -> None:
    tensors = {"p": {"a": torch.ones(2, 3)}}
    stack = stack_of(Stacks(), tensors)
    found = Gathered([stack.identity, stack.pack(tensors)], torch.float32).at("p")["a"]
    assert not found[0].any()
    assert found[1].eq(1).all()


def test_rows_that_share_a_slot_get_one_row_of_parameters() -> None:
    tensors = {"p": {"a": torch.ones(2, 3)}}
    slot = stack_of(Stacks(), tensors).pack(tensors)
    assert Gathered([slot] * 5, torch.float32).at("p")["a"].shape == (1, 2, 3)


def test_a_slot_takes_the_bytes_of_its_tensors_in_their_precision() -> None:
    tensors = {"p": {"a": torch.ones(8, 3).half()}, "q": {"a": torch.ones(4, 3).half()}}
    assert stack_of(Stacks(), tensors).pack(tensors).nbytes == 2 * (24 + 12)


def test_large_adapters_are_stacked_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "PAGE_ELEMENTS", {"cpu": 10})
    monkeypatch.setattr(slots, "KEPT_ELEMENTS", 30)
    tensors = {name: {"a": torch.full((2, 3), float(number)), "b": torch.ones(4)} for number, name in enumerate("pqrs")}
    stack = Stacks().for_tensors("lora", tensors, GROWS, dict.fromkeys("pqrs", CPU))
    assert len(stack.pages) == 4
    gathered = Gathered([stack.pack(tensors), stack.identity], torch.float32)
    for _ in range(2):
        for number, name in enumerate("pqrs"):
            assert gathered.at(name)["a"][0].eq(number).all()
            assert len(gathered._pages) == 1
    gathered.all()
    assert len(gathered._pages) == 4


def test_a_page_lies_on_one_device() -> None:
    meta = torch.device("meta")
    tensors = {"p": {"a": torch.ones(2)}, "q": {"a": torch.ones(2)}}
    stack = Stacks().for_tensors("lora", tensors, {}, {"p": CPU, "q": meta})
    assert [page.device for page in stack.pages] == [CPU, meta]
    assert [page.device for page in stack.pack(tensors).pages] == [CPU, meta]
    assert [page.device for page in stack.pack(tensors, CPU).pages] == [CPU, CPU]


def test_the_pages_of_a_slot_are_parts_of_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "PAGE_ELEMENTS", {"cpu": 1})
    tensors = {"p": {"a": torch.ones(4, 3)}, "q": {"a": torch.ones(2)}}
    slot = stack_of(Stacks(), tensors).pack(tensors)
    assert len(slot.flats) == 1
    assert [page.data_ptr() - slot.flats[0].data_ptr() for page in slot.pages] == [0, 4 * 12]
