"""Invertible adapters: a coupling block behind the embeddings, beside a neighbour of another size."""

import copy

import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter
from torch import Tensor

from adaptdock.engine.inference.dock import Dock

INPUTS = {"input_ids": torch.tensor([[7, 8, 9], [11, 12, 13]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}


def block(tensors: dict[str, Tensor], name: str, half: Tensor) -> Tensor:
    inner = torch.tanh(half @ tensors[f"{name}_down"].T + tensors[f"{name}_down_bias"])
    return inner @ tensors[f"{name}_up"].T + tensors[f"{name}_up_bias"]


def coupled(tensors: dict[str, Tensor], e: Tensor) -> Tensor:
    """The formula of NICE (Dinh et al. 2015)."""
    e1, e2 = e.chunk(2, dim=-1)
    y1 = e1 + block(tensors, "f", e2)
    return torch.cat([y1, e2 + block(tensors, "g", y1)], dim=-1)


def inverted(tensors: dict[str, Tensor], y: Tensor) -> Tensor:
    y1, y2 = y.chunk(2, dim=-1)
    e2 = y2 - block(tensors, "g", y1)
    return torch.cat([y1 - block(tensors, "f", e2), e2], dim=-1)


def test_an_adapter_computes_the_coupling_block_behind_the_embeddings_and_can_be_inverted() -> None:
    backbone, model = tiny_backbone("bert"), copy.deepcopy(tiny_model("bert")).eval()
    built = build_adapter(backbone, "invertible", {"activation": "tanh"})
    tensors = {key.removeprefix("embedding_norm."): value for key, value in built.tensors.items()}
    seen = []
    model.embeddings.register_forward_hook(lambda _module, _inputs, out: seen.append(out) or coupled(tensors, out))
    with torch.no_grad():
        expected = model(**INPUTS)[0]
    torch.testing.assert_close(inverted(tensors, coupled(tensors, seen[0])), seen[0], atol=1e-6, rtol=0)
    dock = Dock(backbone)
    dock.dock(built)
    smaller = build_adapter(backbone, "invertible", {"reduction_factor": 4, "activation": "tanh"}, seed=1)
    dock.dock(smaller, "smaller")
    with dock.boarding(["smaller", "invertible"]) as rows:
        states = dock.hidden(rows, INPUTS)
    dock.close()
    torch.testing.assert_close(states[1], expected[1], atol=1e-5, rtol=0)
    assert (states[0] - expected[0]).abs().max() > 1e-3


def test_without_a_norm_of_the_embeddings_it_acts_at_the_embeddings() -> None:
    built = build_adapter(tiny_backbone("gpt2"), "invertible")
    assert {key.split(".")[0] for key in built.tensors if not key.startswith("head.")} == {"embeddings"}
