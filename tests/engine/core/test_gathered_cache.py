"""The stacked weights of recent batches: the same values, fewer operations, a limit of bytes, and no old versions."""

import torch
from builders import build_adapter
from torch.utils._python_dispatch import TorchDispatchMode

from adaptdock.engine.core.gathered_cache import GatheredCache
from adaptdock.engine.core.slots import Slot, Stacks
from adaptdock.engine.inference.dock import Dock
from adaptdock.plugins.contracts import Backbone

INPUTS = {
    "input_ids": torch.randint(10, 50, (4, 6), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.ones(4, 6, dtype=torch.long),
}


def slots(count: int) -> list[Slot]:
    """Slots of ten numbers each, 40 bytes in float32."""
    stacks = Stacks()
    places = {"p": torch.device("cpu")}
    every = [{"p": {"a": torch.full((10,), float(number))}} for number in range(count)]
    return [stacks.for_tensors("lora", tensors, {}, places).pack(tensors) for tensors in every]


@torch.inference_mode()
def test_a_set_of_rows_that_recurs_has_the_tensors_of_its_first_batch() -> None:
    cache, (one, two) = GatheredCache(), slots(2)
    first = cache.gathered([one, two], torch.float32)
    assert cache.gathered([one, two], torch.float32) is first
    assert cache.gathered([two, one], torch.float32) is not first
    assert cache.gathered([one, two], torch.bfloat16) is not first
    assert first.at("p")["a"][:, 0].tolist() == [0.0, 1.0]


@torch.inference_mode()
def test_rows_of_one_adapter_share_an_entry_whatever_their_number() -> None:
    cache, (one,) = GatheredCache(), slots(1)
    assert cache.gathered([one] * 3, torch.float32) is cache.gathered([one], torch.float32)
    assert cache.nbytes == 40


@torch.inference_mode()
def test_the_least_recently_used_entry_leaves_when_the_bytes_are_full() -> None:
    cache, (one, two, three) = GatheredCache(limit=80), slots(3)
    first, second = cache.gathered([one], torch.float32), cache.gathered([two], torch.float32)
    assert cache.gathered([one], torch.float32) is first
    cache.gathered([three], torch.float32)
    assert cache.nbytes == 80
    assert cache.gathered([one], torch.float32) is first
    assert cache.gathered([two], torch.float32) is not second


@torch.inference_mode()
def test_an_entry_of_more_than_half_the_bytes_is_not_kept() -> None:
    cache, pair = GatheredCache(limit=80), slots(2)
    assert cache.gathered(pair, torch.float32) is not cache.gathered(pair, torch.float32)
    assert cache.nbytes == 0


def test_outside_inference_nothing_is_kept_for_gradients_need_tensors_of_their_own() -> None:
    cache, (one,) = GatheredCache(), slots(1)
    with torch.inference_mode():
        kept = cache.gathered([one], torch.float32)
    assert cache.gathered([one], torch.float32) is not kept


class Concatenations(TorchDispatchMode):
    """Counts the operations that stack weights."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.ops.aten.cat.default
        return func(*args, **(kwargs or {}))


def hidden(dock: Dock, names: list[str]) -> tuple[torch.Tensor, int]:
    with Concatenations() as counter, dock.boarding(names) as rows:
        return dock.hidden(rows, INPUTS), counter.count


def test_the_second_batch_of_the_same_adapters_in_any_order_stacks_nothing_and_gives_the_same(
    backbone: Backbone,
) -> None:
    with Dock(backbone) as dock:
        for number, name in enumerate("abcd"):
            dock.dock(build_adapter(backbone, "lora", {"rank": 3}, seed=number), name)
        (first, stacked), (second, again) = hidden(dock, list("abcd")), hidden(dock, list("abcd"))
        assert stacked > again == 0
        assert torch.equal(first, second)
        turned, again = hidden(dock, list("bcda"))
        assert again == 0
        for row, name in enumerate("bcda"):
            alone = dock_hidden_alone(dock, name, row)
            torch.testing.assert_close(turned[row], alone, atol=1e-5, rtol=0)


def dock_hidden_alone(dock: Dock, name: str, row: int) -> torch.Tensor:
    with dock.boarding([name]) as rows:
        return dock.hidden(rows, {key: tensor[row : row + 1] for key, tensor in INPUTS.items()})[0]


def test_a_replaced_adapter_acts_at_once_and_its_old_weights_are_freed(backbone: Backbone) -> None:
    with Dock(backbone) as dock:
        for number, name in enumerate("abcd"):
            dock.dock(build_adapter(backbone, "lora", {"rank": 3}, seed=number), name)
        before, _ = hidden(dock, list("abcd"))
        assert dock._gathered.nbytes > 0
        dock.dock(build_adapter(backbone, "lora", {"rank": 3}, seed=9), "b", replace=True)
        assert dock._gathered.nbytes == 0
        after, _ = hidden(dock, list("abcd"))
        torch.testing.assert_close(after[[0, 2, 3]], before[[0, 2, 3]], atol=1e-6, rtol=0)
        assert (after[1] - before[1]).abs().max() > 1e-4
        torch.testing.assert_close(after[1], dock_hidden_alone(dock, "b", 1), atol=1e-5, rtol=0)
    assert dock._gathered.nbytes == 0
