"""torch.compile: a mixed batch is one graph, which other compositions of the same kinds use again."""

import gc
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo
from architectures import tiny_backbone
from builders import build_adapter
from torch._dynamo.testing import CompileCounter

from adaptdock.engine.inference.dock import Dock

INPUTS = {
    "input_ids": torch.randint(10, 50, (4, 8), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.ones(4, 8, dtype=torch.long),
}


@pytest.fixture
def dock() -> Iterator[Dock]:
    torch._dynamo.reset()
    gc.collect()  # what other tests left, and goes while a graph is made, would be missed by its guards
    opened = Dock(tiny_backbone("bert"))
    for method in ("lora", "bottleneck", "prefix"):
        for seed in range(6):
            opened.dock(build_adapter(opened.backbone, method, seed=seed), f"{method}{seed}")
    yield opened
    torch._dynamo.reset()


def hidden(dock: Dock, names: list[str | None]) -> torch.Tensor:
    with dock.boarding(names) as rows:
        return dock.hidden(rows, INPUTS)


def test_compositions_of_the_same_kinds_share_one_graph_without_breaks(dock: Dock) -> None:
    mixes: list[list[str | None]] = [
        ["lora0", "bottleneck1", "prefix2", "lora3"],
        ["prefix5", "lora4", "bottleneck0", None],
        ["bottleneck2", "prefix0", "lora1", "lora1"],
    ]
    wanted = [hidden(dock, mix) for mix in mixes]
    counter = CompileCounter()
    dock.backbone.model.compile(backend=counter, fullgraph=True)
    for mix, expected in zip(mixes, wanted, strict=True):
        torch.testing.assert_close(hidden(dock, mix), expected, atol=1e-6, rtol=0)
        assert counter.frame_count == 1
    dock.dock(build_adapter(dock.backbone, "lora", seed=99), "lora0", replace=True)
    assert not torch.equal(hidden(dock, mixes[0])[0], wanted[0][0])
    assert counter.frame_count == 1
    hidden(dock, ["lora0", "lora1", None, None])  # other kinds: a graph of their own
    assert counter.frame_count == 2
