"""Bottlenecks with layer norms of their own, beside neighbours of another size and without norms."""

import copy
from typing import Any

import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter
from torch import Tensor
from torch.nn import functional

from adaptdock.engine.inference.dock import Dock

INPUTS = {"input_ids": torch.tensor([[7, 8, 9], [11, 12, 13]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
NORMS = [{"norm_before": True}, {"norm_after": True}, {"norm_before": True, "norm_after": True}]


def bottleneck(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """What AdapterHub's ``Adapter.forward`` computes, without its residual."""
    width = x.shape[-1:]
    if "before_weight" in tensors:
        x = functional.layer_norm(x, width, tensors["before_weight"], tensors["before_bias"])
    inner = functional.relu(functional.linear(x, tensors["down"], tensors["down_bias"]))
    out = functional.linear(inner, tensors["up"], tensors["up_bias"])
    if "after_weight" in tensors:
        out = functional.layer_norm(out, width, tensors["after_weight"], tensors["after_bias"])
    return out


@pytest.mark.parametrize("norms", NORMS, ids=lambda norms: "+".join(norms))
def test_an_adapter_computes_its_own_norms_before_and_after(norms: dict[str, Any]) -> None:
    backbone, model = tiny_backbone("bert"), copy.deepcopy(tiny_model("bert")).eval()
    options = {"placement": "pfeiffer", "width": 5, **norms}
    built = build_adapter(backbone, "bottleneck", options)
    for port in backbone.ports.select("linear", ("ffn_down",)):
        front = f"{port.name}."
        tensors = {key.removeprefix(front): value for key, value in built.tensors.items() if key.startswith(front)}
        model.get_submodule(port.module).register_forward_hook(
            lambda _module, _inputs, out, tensors=tensors: out + bottleneck(tensors, out)
        )
    with torch.no_grad():
        expected = model(**INPUTS)[0]
    dock = Dock(backbone)
    dock.dock(built)
    dock.dock(build_adapter(backbone, "bottleneck", {**options, "width": 9}, seed=1), "wider")
    dock.dock(build_adapter(backbone, "bottleneck", {"width": 3}, seed=2), "plain")
    for neighbour in ("wider", "plain"):
        with dock.boarding([neighbour, "bottleneck"]) as rows:
            states = dock.hidden(rows, INPUTS)
        torch.testing.assert_close(states[1], expected[1], atol=1e-5, rtol=0)
    dock.close()


@pytest.mark.parametrize("norms", NORMS, ids=lambda norms: "+".join(norms))
@pytest.mark.parametrize("method", ["bottleneck", "compacter"])
def test_an_untrained_adapter_with_norms_changes_nothing(method: str, norms: dict[str, Any]) -> None:
    backbone = tiny_backbone("bert")
    dock = Dock(backbone)
    dock.dock(build_adapter(backbone, method, norms, trained=False))
    with dock.boarding([method, method]) as rows:
        states = dock.hidden(rows, INPUTS)
    dock.close()
    with torch.no_grad():
        torch.testing.assert_close(states, backbone.model(**INPUTS)[0], atol=1e-6, rtol=0)
