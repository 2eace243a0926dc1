"""Rows: kinds of adapter act on the rows that have them, and rows come back in their order."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from architectures import tiny_backbone, tiny_language_model
from builders import build_adapter
from cyclic_garbage import tensors_in_cycles
from models import tiny_tokenizer
from torch import Tensor

from adaptdock.adapters.bottleneck import Bottleneck
from adaptdock.adapters.ia3 import IA3
from adaptdock.adapters.lora import LoRA
from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.docked_adapters import Row
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.generation import GenerationOptions, generate_ids
from adaptdock.plugins.contracts import Method

INPUTS = {
    "input_ids": torch.randint(10, 50, (7, 6), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.ones(7, 6, dtype=torch.long),
}
SHUFFLED = ["lora", "bottleneck", None, "lora2", "ia3", "bottleneck", "lora+bottleneck"]


def docked(dock: Dock) -> Dock:
    for number, method in enumerate(("lora", "bottleneck", "ia3", "prefix")):
        dock.dock(build_adapter(dock.backbone, method, seed=number), method)
    dock.dock(build_adapter(dock.backbone, "lora", seed=9), "lora2")
    return dock


@pytest.fixture
def dock() -> Iterator[Dock]:
    opened = docked(Dock(tiny_backbone("bert")))
    yield opened
    opened.close()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """How many rows each method is given."""
    found: dict[str, set[int]] = {}

    def spy(method: type[Method], act: str, place: int) -> None:
        real = getattr(method, act)

        def acts(self: Any, parameters: Any, *tensors: Any) -> Tensor:
            found.setdefault(method.__name__, set()).add(len(tensors[place]))
            return real(self, parameters, *tensors)

        monkeypatch.setattr(method, act, acts)

    spy(LoRA, "transform", 1)
    spy(Bottleneck, "transform", 1)
    spy(IA3, "enter", 0)
    return found


def alone(dock: Dock, name: str | None, row: int) -> Tensor:
    with dock.boarding([name]) as rows:
        return dock.hidden(rows, {key: tensor[row : row + 1] for key, tensor in INPUTS.items()})[0]


def test_rows_come_back_in_their_order_each_as_it_is_alone(dock: Dock) -> None:
    with dock.boarding(SHUFFLED) as rows:
        mixed = dock.hidden(rows, INPUTS)
    for row, name in enumerate(SHUFFLED):
        torch.testing.assert_close(mixed[row], alone(dock, name, row), atol=1e-5, rtol=0)


def test_rows_in_any_order_give_what_each_gives_alone(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind whose rows are no neighbours acts on those between them as the identity."""
    monkeypatch.setattr(Dock, "order", lambda self, rows: list(range(len(rows))))
    with dock.boarding(SHUFFLED) as rows:
        mixed = dock.hidden(rows, INPUTS)
    for row, name in enumerate(SHUFFLED):
        torch.testing.assert_close(mixed[row], alone(dock, name, row), atol=1e-5, rtol=0)


def test_a_method_is_given_the_rows_that_have_it_and_no_others(dock: Dock, seen: dict[str, set[int]]) -> None:
    with dock.boarding(["lora", None, "ia3", "lora2", "bottleneck", None, "lora"]) as rows:
        dock.hidden(rows, INPUTS)
    assert seen == {"LoRA": {3}, "Bottleneck": {1}, "IA3": {1}}


def test_a_row_of_the_bare_backbone_is_untouched_by_its_neighbours(dock: Dock) -> None:
    with dock.boarding(["lora", None, "bottleneck", None, "lora", None, "ia3"]) as rows:
        mixed = dock.hidden(rows, INPUTS)
    bare = dock.hidden([()] * 7, INPUTS)
    for row in (1, 3, 5):
        torch.testing.assert_close(mixed[row], bare[row], atol=1e-6, rtol=0)


def test_what_is_written_comes_back_in_the_order_of_its_rows() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_language_model("llama", vocab_size=len(tokenizer))
    dock = docked(Dock(HuggingFaceBackbone("tiny-llama", model, tokenizer, "blocks1:llama")))
    names = ["prefix", "lora", None, "bottleneck", "lora2", "ia3", "lora"]

    def written(rows: list[Row], numbers: list[int], beams: int) -> Tensor:
        given = {key: tensor[numbers] for key, tensor in INPUTS.items()}
        return generate_ids(dock, rows, given, GenerationOptions(max_new_tokens=5, num_beams=beams))

    for beams in (1, 2):
        with dock.boarding(names) as rows:
            together = written(rows, list(range(7)), beams)
            for number, row in enumerate(rows):
                assert together[number].tolist() == written([row], [number], beams)[0].tolist()
    dock.close()


def test_neither_a_batch_nor_a_swap_leaves_weights_to_the_garbage_collector(dock: Dock) -> None:
    """The collector comes late: a server would keep the stacked weights of thousands of batches."""

    def batch() -> None:
        with dock.boarding(SHUFFLED) as rows:
            dock.hidden(rows, INPUTS)

    def swap() -> None:
        dock.unload("prefix")
        dock.dock(build_adapter(dock.backbone, "prefix", seed=3), "prefix")

    assert tensors_in_cycles(batch) == []
    assert tensors_in_cycles(swap) == []
