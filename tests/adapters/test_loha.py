"""LoHa: the update is the elementwise product of two low-rank matrices, beside a neighbour of another rank."""

import copy

import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter

from adaptdock.engine.inference.dock import Dock

INPUTS = {"input_ids": torch.tensor([[7, 8, 9], [11, 12, 13]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}


def test_an_adapter_computes_what_a_model_with_the_product_in_its_weights_computes() -> None:
    backbone, other = tiny_backbone("bert"), copy.deepcopy(tiny_model("bert")).eval()
    built = build_adapter(backbone, "loha", {"rank": 3, "alpha": 6})
    with torch.no_grad():
        for port in backbone.ports.select("linear", ("query", "value")):
            b1, a1, b2, a2 = (built.tensors[f"{port.name}.loha_{part}"] for part in ("b1", "a1", "b2", "a2"))
            other.get_submodule(port.module).weight.add_(6 / 3 * (b1 @ a1) * (b2 @ a2))
        expected = other(**INPUTS)[0]
    dock = Dock(backbone)
    dock.dock(built)
    dock.dock(build_adapter(backbone, "loha", {"rank": 2}, seed=1), "smaller")
    with dock.boarding(["smaller", "loha"]) as rows:
        states = dock.hidden(rows, INPUTS)
    dock.close()
    torch.testing.assert_close(states[1], expected[1], atol=1e-5, rtol=0)
