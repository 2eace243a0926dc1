"""Prefixes inside attention, against a plain reference, and what they leave behind."""

import copy
from typing import Any

import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter
from models import tiny_tokenizer
from reference import attention_with_prefix
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.backbones.transformers.attention import _of_text
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import BackboneError, UsageError
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Batch, ForwardPass

IDS = torch.tensor([[2, 11, 23, 35, 47, 59, 13, 25, 37, 49, 51, 3]])


def inputs(ids: Tensor = IDS) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def with_prefix(backbone: HuggingFaceBackbone, **options: Any) -> tuple[Dock, dict[str, Tensor]]:
    dock = Dock(backbone)
    noise = build_adapter(backbone, "prefix", {"length": 3, **options}, name="prefix")
    adapter = AdapterFile(noise.card, {name: 5 * tensor for name, tensor in noise.tensors.items()})
    dock.dock(adapter)
    return dock, adapter.tensors


def run(dock: Dock, names: list[str | None], given: dict[str, Tensor]) -> Tensor:
    with dock.boarding(names) as rows:
        return dock.hidden(rows, given)


@pytest.fixture
def reference() -> dict[nn.Module, tuple[Tensor, Tensor, Tensor]]:
    """Register the plain reference as an attention implementation; it looks prefixes up by module."""
    prefixes: dict[nn.Module, tuple[Tensor, Tensor, Tensor]] = {}

    def plain(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float, **_: Any
    ) -> Any:
        found = attention_with_prefix(query[0], key[0], value[0], prefixes[module], scaling, module.is_causal)
        return found.transpose(0, 1)[None], None

    AttentionInterface.register("plain_reference", plain)
    return prefixes


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "qwen3", "phi3"])
@pytest.mark.parametrize("gate", [True, False])
def test_a_prefix_is_learned_keys_and_values_in_front_of_an_attentions_own(
    architecture: str, gate: bool, reference: dict[nn.Module, tuple[Tensor, Tensor, Tensor]]
) -> None:
    backbone = tiny_backbone(architecture)
    dock, tensors = with_prefix(backbone, gate=gate)
    found = run(dock, ["prefix"], inputs())
    dock.close()
    for port in backbone.ports:
        if port.kind == "attention":
            kept = {name: tensors.get(f"{port.name}.prefix_{name}", torch.ones(3)) for name in ("key", "value", "gate")}
            reference[backbone.model.get_submodule(port.module)] = tuple(kept.values())
    backbone.model.set_attn_implementation("plain_reference")
    with torch.no_grad():
        wanted = backbone.model(IDS)[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_top_left_prefix_is_masked_as_torch_masks_a_causal_text_of_prefix_and_tokens(architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    dock, tensors = with_prefix(backbone, gate=False, top_left=True)
    found = run(dock, ["prefix"], inputs())
    dock.close()
    modules = {
        backbone.model.get_submodule(port.module): port.name for port in backbone.ports.select("attention", ("all",))
    }

    def causal(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float, **_: Any
    ) -> Any:
        groups = query.shape[1] // key.shape[1]
        joined = [
            torch.cat([tensors[f"{modules[module]}.prefix_{part}"][None], of_text], dim=2).repeat_interleave(groups, 1)
            for part, of_text in (("key", key), ("value", value))
        ]
        found = nn.functional.scaled_dot_product_attention(query, *joined, is_causal=True, scale=scaling)
        return found.transpose(1, 2), None

    AttentionInterface.register("causal_reference", causal)
    backbone.model.set_attn_implementation("causal_reference")
    with torch.no_grad():
        wanted = backbone.model(IDS)[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_top_left_prefix_needs_causal_attention_and_a_text_in_one_piece() -> None:
    with pytest.raises(UsageError, match="no causal attention"):
        with_prefix(tiny_backbone("bert"), top_left=True)
    with pytest.raises(BackboneError, match="reads a text in one pass"):
        _of_text(torch.zeros(1, 2, 2), 5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("architecture", "window"), [("mistral", 4), ("gemma3_text", 4), ("modernbert", 4)])
def test_a_sliding_window_hides_distant_tokens_but_never_the_prefix(
    architecture: str, window: int, attention: str
) -> None:
    changes = {"layer_types": ["sliding_attention"]} if architecture != "mistral" else {}
    backbone = tiny_backbone(architecture, attention, num_hidden_layers=1, **changes)
    dock, _ = with_prefix(backbone)
    other = IDS.clone()
    other[0, 0] = 60
    one, two = run(dock, ["prefix"] * 2, inputs(torch.cat([IDS, other])))
    bare = run(dock, [None], inputs())[0]
    dock.close()
    torch.testing.assert_close(one[window:], two[window:], atol=0, rtol=0)
    assert not torch.equal(one[window - 1], two[window - 1])
    assert ((one - bare).abs().amax(dim=1) > 1e-4).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "modernbert", "mistral", "t5", "bart"])
def test_a_row_that_is_all_padding_harms_nobody(architecture: str, attention: str) -> None:
    backbone = tiny_backbone(architecture, attention)
    dock, _ = with_prefix(backbone)
    given = inputs(IDS.repeat(4, 1))
    given["attention_mask"][2:] = 0
    names = ["prefix", None, "prefix", None]
    found = run(dock, names, given)
    assert found.isfinite().all()
    for row in (0, 1):
        torch.testing.assert_close(found[row], run(dock, [names[row]], inputs())[0], atol=1e-5, rtol=0)
    dock.close()


def test_gradients_of_a_prefix_stay_finite_beside_padding_on_either_side() -> None:
    backbone = tiny_backbone("llama")
    dock, tensors = with_prefix(backbone)
    given = inputs(IDS.repeat(2, 1))
    given["attention_mask"][0, 6:] = 0
    given["attention_mask"][1, :6] = 0
    part = dock.assembly("prefix").parts[0]
    trained = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}

    def prepend(port: Any, rows: int) -> list[Any]:
        return [
            part.method.prepend(
                {n: trained[f"{port.name}.{n}"][None] for n in ("prefix_key", "prefix_value", "prefix_gate")},
                ForwardPass(rows),
            )
        ]

    dock.close()
    with backbone.open_attention(prepend):
        backbone.forward(Batch(given)).square().sum().backward()
    gradients = [tensor.grad for name, tensor in trained.items() if "prefix" in name]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)


def everything(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        name: everything(value) if isinstance(value, PreTrainedConfig) else copy.deepcopy(value)
        for name, value in vars(config).items()
    }


@pytest.mark.parametrize("attention", ["eager", None])
@pytest.mark.parametrize("architecture", ["bert", "gemma3_text", "t5", "deberta-v2", "falcon"])
def test_docking_and_undocking_leave_the_configuration_as_it_was(architecture: str, attention: str | None) -> None:
    model = tiny_model(architecture, attention)
    before = everything(model.config)
    backbone = HuggingFaceBackbone("x", model, tiny_tokenizer(), "blocks1:x")
    assert everything(model.config) == before
    if "attention" not in backbone.ports.closed:
        dock, _ = with_prefix(backbone)
        dock.unload("prefix")
        assert everything(model.config) == before


def test_a_prefix_on_another_attention_implementation_is_refused_with_the_way_out() -> None:
    model = tiny_model("bert")
    model.config._attn_implementation_internal = "paged|sdpa"
    with pytest.raises(BackboneError, match=r"attention implementation 'paged\|sdpa'; use sdpa or eager"):
        with_prefix(HuggingFaceBackbone("x", model, tiny_tokenizer(), "blocks1:x"))
