"""Norms: an adapter is the backbone with other factors and biases in its norms."""

import copy

import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter

from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import UnknownNameError

INPUTS = {"input_ids": torch.tensor([[7, 8, 9], [11, 12, 13]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
ROLES = {
    "bert": ["attention_norm", "ffn_norm", "embedding_norm"],
    "gpt2": ["attention_norm", "ffn_norm", "final_norm"],
    "modernbert": ["ffn_norm", "attention_norm", "embedding_norm", "final_norm"],
    "gemma2": ["attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm", "final_norm"],
    "t5": ["attention_norm", "ffn_norm", "cross_attention_norm", "final_norm"],
}
NAMED = {
    "layers.0.input_layernorm": "attention_norm",
    "layers.0.post_attention_layernorm": "attention_post_norm",
    "layers.0.pre_feedforward_layernorm": "ffn_norm",
    "layers.0.post_feedforward_layernorm": "ffn_post_norm",
    "norm": "final_norm",
}
"""Gemma 2, whose names say what each norm is."""


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "opt", "bloom"])
def test_an_adapter_computes_what_a_model_with_other_norms_computes(architecture: str) -> None:
    backbone, other = tiny_backbone(architecture), copy.deepcopy(tiny_model(architecture)).eval()
    built = build_adapter(backbone, "norms")
    with torch.no_grad():
        for port in backbone.ports.select("norm", ("all",)):
            gain, shift = (built.tensors[f"{port.name}.norm_{part}"] for part in ("gain", "shift"))
            norm = other.get_submodule(port.module)
            norm.weight.mul_(1 + gain)
            norm.bias.mul_(1 + gain).add_(shift)
        expected = other(**INPUTS)[0]
    dock = Dock(backbone)
    dock.dock(built)
    with dock.boarding(["norms", "norms"]) as rows:
        found = dock.hidden(rows, INPUTS)
    dock.close()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ROLES)
def test_norms_are_told_apart_by_their_place(architecture: str) -> None:
    assert tiny_backbone(architecture).ports.roles("norm") == ROLES[architecture]


def test_the_roles_are_those_that_gemmas_names_tell() -> None:
    roles = {port.module: port.role for port in tiny_backbone("gemma2").ports if port.kind == "norm"}
    assert {path: roles[path] for path in NAMED} == NAMED


def test_a_role_that_there_is_not_offers_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="unknown norm role 'ffn_nrom': did you mean ffn_norm"):
        build_adapter(tiny_backbone("bert"), "norms", {"roles": "ffn_nrom"})


def test_every_whole_layer_has_a_port_at_its_output() -> None:
    for architecture, layers in (("bert", 2), ("llama", 2), ("deberta-v2", 2), ("bloom", 2), ("t5", 4), ("bart", 4)):
        chosen = tiny_backbone(architecture).ports.select("hidden", ("block",))
        assert len(chosen) == layers, architecture
        assert {port.outputs for port in chosen} == {32}
