"""The same weights in the peft library and here give the same hidden states."""

import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import AdapterFile

IDS = torch.tensor([[2, 11, 23, 35, 47, 59, 3], [2, 8, 9, 10, 3, 0, 0]])
MASK = (IDS != 0).long()
KEPT = MASK.bool()

pytestmark = pytest.mark.filterwarnings(  # transformers deprecates an attribute that peft still reads
    "ignore:.*is_gradient_checkpointing.*:FutureWarning"
)


def ours(backbone: HuggingFaceBackbone, adapter: AdapterFile, tensors: dict[str, Tensor], **more: Tensor) -> Tensor:
    dock = Dock(backbone)
    name = dock.dock(AdapterFile(adapter.card, {**adapter.tensors, **tensors}))
    with dock.boarding([name] * 2) as rows:
        hidden = dock.hidden(rows, {"input_ids": IDS, "attention_mask": MASK, **more})
    dock.close()
    return hidden[KEPT]


def theirs(model: PeftModel) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, attention_mask=MASK)[0][KEPT]


def noise(model: PeftModel, scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name or "prompt" in name or "ia3" in name:
                parameter.normal_(std=scale, generator=generator)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    ("architecture", "modules"),
    [("bert", {"query": "query", "value": "value", "output.dense": "attention_output"}), ("gpt2", {"c_attn": "qkv"})],
)
def test_lora_is_pefts_lora(architecture: str, modules: dict[str, str], rslora: bool) -> None:
    config = LoraConfig(
        r=4,
        lora_alpha=7,
        use_rslora=rslora,
        target_modules=r".*attention\.(self\.(query|value)|output\.dense)|.*c_attn",
        fan_in_fan_out=architecture == "gpt2",
    )
    model = get_peft_model(tiny_model(architecture), config)
    noise(model, 0.2)
    backbone = tiny_backbone(architecture)
    adapter = build_adapter(
        backbone, "lora", {"rank": 4, "alpha": 7, "rslora": rslora, "roles": tuple(modules.values())}
    )
    weights = dict(model.named_parameters())
    copied = {
        f"{port.name}.lora_{half.lower()}": weights[f"base_model.model.{port.module}.lora_{half}.default.weight"]
        for port in backbone.ports.select("linear", tuple(modules.values()))
        for half in "AB"
    }
    wanted = theirs(model)
    torch.testing.assert_close(ours(backbone, adapter, copied), wanted, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert (backbone.model(IDS, attention_mask=MASK)[0][KEPT] - wanted).abs().max() > 0.1


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_an_ungated_prefix_is_pefts_prefix_at_the_positions_that_peft_shifts_to(architecture: str) -> None:
    length, layers, heads = 3, 2, 4
    model = get_peft_model(
        tiny_model(architecture), PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=length)
    )
    noise(model, 0.7)
    backbone = tiny_backbone(architecture)
    moved = build_adapter(backbone, "prefix", {"length": length, "gate": False, "move": True})
    unmoved = build_adapter(backbone, "prefix", {"length": length, "gate": False})
    table = model.prompt_encoder["default"].embedding.weight.detach()
    table = table.view(length, layers, 2, heads, -1).permute(1, 2, 3, 0, 4)  # layers, key or value, heads, L, width
    copied = {
        f"layers.{layer}.attention.prefix_{kind}": table[layer, number].contiguous()
        for layer in range(layers)
        for number, kind in enumerate(("key", "value"))
    }
    wanted = theirs(model)
    torch.testing.assert_close(ours(backbone, moved, copied), wanted, atol=1e-5, rtol=0)
    assert (ours(backbone, unmoved, copied) - wanted).abs().max() > 0.01  # it leaves positions where they were


ADAPTED = r".*attention\.(self\.(query|value)|output\.dense)|.*c_attn|.*[qv]_proj|.*o_proj"


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    ("architecture", "roles"),
    [
        ("bert", ("query", "value", "attention_output")),
        ("gpt2", ("qkv",)),
        ("llama", ("query", "value", "attention_output")),
    ],
)
def test_dora_is_pefts_dora(architecture: str, roles: tuple[str, ...], rslora: bool) -> None:
    conv = architecture == "gpt2"
    config = LoraConfig(
        r=4, lora_alpha=7, use_rslora=rslora, use_dora=True, target_modules=ADAPTED, fan_in_fan_out=conv
    )
    model = get_peft_model(tiny_model(architecture), config)
    noise(model, 0.2)
    backbone = tiny_backbone(architecture)
    adapter = build_adapter(backbone, "dora", {"rank": 4, "alpha": 7, "rslora": rslora, "roles": roles})
    weights = dict(model.named_parameters())
    copied = {}
    for port in backbone.ports.select("linear", roles):
        theirs_at = f"base_model.model.{port.module}.lora"
        copied |= {f"{port.name}.lora_{half.lower()}": weights[f"{theirs_at}_{half}.default.weight"] for half in "AB"}
        magnitude = weights[f"{theirs_at}_magnitude_vector.default.weight"]
        copied[f"{port.name}.magnitude_change"] = magnitude - backbone.weight(port).norm(dim=1)
    agree(backbone, adapter, copied, model)


@pytest.mark.parametrize("feed_forward", [True, False])
@pytest.mark.parametrize(
    ("architecture", "attention", "inner"),
    [
        ("bert", r".*attention\.self\.(key|value)", r".*\d+\.output\.dense"),
        ("gpt2", ".*c_attn", r".*mlp\.c_proj"),
        ("llama", ".*[kv]_proj", ".*down_proj"),
    ],
)
def test_ia3_is_pefts_ia3(architecture: str, attention: str, inner: str, feed_forward: bool) -> None:
    config = IA3Config(
        target_modules=f"{attention}|{inner}" if feed_forward else attention,
        feedforward_modules=inner if feed_forward else [],
        fan_in_fan_out=architecture == "gpt2",
    )
    model = get_peft_model(tiny_model(architecture), config)
    noise(model, 0.5)
    backbone = tiny_backbone(architecture)
    adapter = build_adapter(backbone, "ia3", {"feed_forward": feed_forward})
    weights = dict(model.named_parameters())
    places = {f"{port.name}.{kind}_factor": port for port in backbone.ports for kind in ("input", "output")}
    copied = {
        name: weights[f"base_model.model.{places[name].module}.ia3_l.default"].flatten() - 1
        for name in adapter.tensors
        if name in places
    }
    assert len(copied) == len([name for name in weights if "ia3" in name])
    agree(backbone, adapter, copied, model)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_a_prompt_is_pefts_prompt(architecture: str) -> None:
    config = PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=5)
    model = get_peft_model(tiny_model(architecture), config)
    noise(model, 0.5)
    backbone = tiny_backbone(architecture)
    adapter = build_adapter(backbone, "prompt", {"length": 5})
    copied = {"embeddings.prompt": model.prompt_encoder["default"].embedding.weight.detach()}
    agree(backbone, adapter, copied, model)


def agree(backbone: HuggingFaceBackbone, adapter: AdapterFile, copied: dict[str, Tensor], model: PeftModel) -> None:
    """Check that ours with the copied weights gives theirs, and that the weights do something."""
    with torch.no_grad():
        wanted = model.eval()(input_ids=IDS, attention_mask=MASK)[0][:, -IDS.shape[1] :][KEPT]
        bare = backbone.model(IDS, attention_mask=MASK)[0][KEPT]
    assert {name for name in adapter.tensors if not name.startswith("head.")} == copied.keys()
    torch.testing.assert_close(ours(backbone, adapter, copied), wanted, atol=1e-5, rtol=0)
    assert (bare - wanted).abs().max() > 0.1
