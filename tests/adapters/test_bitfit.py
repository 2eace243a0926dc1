"""BitFit: an adapter is the backbone with other biases."""

import copy

import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter

from adaptdock.engine.inference.dock import Dock

INPUTS = {"input_ids": torch.tensor([[7, 8, 9], [11, 12, 13]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}


def test_an_adapter_computes_what_a_model_with_other_biases_computes() -> None:
    backbone, other = tiny_backbone("bert"), copy.deepcopy(tiny_model("bert")).eval()
    built = build_adapter(backbone, "bitfit")
    with torch.no_grad():
        for port in backbone.ports.select("linear", ("all",)):
            other.get_submodule(port.module).bias.add_(built.tensors[f"{port.name}.bias_shift"])
        expected = other(**INPUTS)[0]
    dock = Dock(backbone)
    dock.dock(built)
    dock.dock(build_adapter(backbone, "bitfit", {"roles": "query"}, seed=1), "other")
    with dock.boarding(["other", "bitfit"]) as rows:
        states = dock.hidden(rows, INPUTS)
    dock.close()
    torch.testing.assert_close(states[1], expected[1], atol=1e-5, rtol=0)
