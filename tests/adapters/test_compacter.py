"""Compacter: a bottleneck with maps that are sums of Kronecker products, beside neighbours of another size."""

import copy

import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter
from torch import Tensor

from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import UsageError

INPUTS = {"input_ids": torch.tensor([[7, 8, 9], [11, 12, 13]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}


def mapped(x: Tensor, tensors: dict[str, Tensor], layer: str) -> Tensor:
    """A hypercomplex multiplication as in the paper: ``x`` times a sum of Kronecker products."""
    rule, left, right = (tensors[f"{layer}_{part}"] for part in ("rule", "left", "right"))
    products = [torch.kron(rule[i], left[i] @ right[i]) for i in range(len(rule))]
    return x @ torch.stack(products).sum(0) + tensors[f"{layer}_bias"]


def test_an_adapter_computes_the_sum_of_kronecker_products_of_the_paper() -> None:
    backbone, model = tiny_backbone("bert"), copy.deepcopy(tiny_model("bert")).eval()
    built = build_adapter(backbone, "compacter", {"dimension": 2, "rank": 2, "width": 6, "activation": "tanh"})
    for port in backbone.ports.select("linear", ("attention_output", "ffn_down")):
        front = f"{port.name}."
        tensors = {key.removeprefix(front): value for key, value in built.tensors.items() if key.startswith(front)}
        model.get_submodule(port.module).register_forward_hook(
            lambda _module, _inputs, out, tensors=tensors: (
                out + mapped(torch.tanh(mapped(out, tensors, "down")), tensors, "up")
            )
        )
    with torch.no_grad():
        expected = model(**INPUTS)[0]
    dock = Dock(backbone)
    dock.dock(built)
    dock.dock(build_adapter(backbone, "compacter", {"dimension": 4, "width": 8, "activation": "tanh"}, seed=1), "wide")
    with dock.boarding(["wide", "compacter"]) as rows:
        states = dock.hidden(rows, INPUTS)
    dock.close()
    torch.testing.assert_close(states[1], expected[1], atol=1e-5, rtol=0)


def test_widths_without_whole_parts_are_refused_with_the_option() -> None:
    with pytest.raises(UsageError, match="--dimension"):
        build_adapter(tiny_backbone("bert"), "compacter", {"dimension": 7})
    with pytest.raises(UsageError, match="width 6 is not a multiple of dimension 4"):
        build_adapter(tiny_backbone("bert"), "compacter", {"width": 6})
