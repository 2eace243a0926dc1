"""LoRA as a GGUF file has the keys and names of llama.cpp, and the weights in its order."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from architectures import tiny_backbone
from builders import build_adapter
from peft import LoraConfig
from peft_adapters import Case, adapter_folder, base_model
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from adaptdock.engine.core.loading import load_backbone
from adaptdock.errors import UsageError
from adaptdock.hub.interchange.conversion import export_adapter, import_adapter
from adaptdock.hub.interchange.lora_servers import serving_notes
from adaptdock.plugins.contracts import LoadOptions

ROLES = {"query": "attn_q", "key": "attn_k", "value": "attn_v", "ffn_down": "ffn_down"}


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(folder / "adapter.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return fields, {tensor.name: tensor.data.copy() for tensor in reader.tensors}


def test_names_keys_and_products_are_those_of_llama_cpp(tmp_path: Path) -> None:
    backbone = tiny_backbone("llama")
    adapter = build_adapter(backbone, "lora", {"rank": 3, "alpha": 6, "roles": ",".join(ROLES)})
    notes = export_adapter(adapter, backbone, tmp_path / "out", "gguf", headless=True)
    assert notes == []
    fields, tensors = read(tmp_path / "out")
    assert fields["general.architecture"] == "llama"
    assert (fields["general.type"], fields["adapter.type"], fields["adapter.lora.alpha"]) == ("adapter", "lora", 6)
    expected = {
        f"blk.{layer}.{name}.weight.lora_{part}" for layer in (0, 1) for name in ROLES.values() for part in "ab"
    }
    assert tensors.keys() == expected
    config = backbone.model.config.to_dict()
    processor = LlamaTensorProcessor(config=config)
    for port in backbone.ports.select("linear", tuple(ROLES)):
        stored = f"blk.{port.layer}.{ROLES[port.role]}.weight"
        product = tensors[f"{stored}.lora_b"] @ tensors[f"{stored}.lora_a"]
        # transformers turns the order of llama.cpp back
        product = processor.process(weights=product, name=stored).weights
        a, b = (adapter.tensors[f"{port.name}.lora_{part}"] for part in "ab")
        torch.testing.assert_close(torch.tensor(product), b @ a, atol=1e-6, rtol=1e-6)


def test_a_change_that_can_be_merged_goes_out_as_lora_and_rank_stabilisation_into_alpha(tmp_path: Path) -> None:
    backbone = tiny_backbone("gpt2")
    adapter = build_adapter(backbone, "vera", {"rank": 4})
    notes = export_adapter(adapter, backbone, tmp_path / "vera", "gguf", headless=True)
    assert "merged change" in notes[0]
    assert {name.partition(".lora")[0] for name in read(tmp_path / "vera")[1]} == {
        "blk.0.attn_qkv.weight",
        "blk.1.attn_qkv.weight",
    }
    adapter = build_adapter(backbone, "lora", {"rank": 4, "alpha": 6, "rslora": True})
    export_adapter(adapter, backbone, tmp_path / "rslora", "gguf", headless=True)
    assert read(tmp_path / "rslora")[0]["adapter.lora.alpha"] == 12


@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore:.*is_gradient_checkpointing:FutureWarning")
def test_invocation_tokens_go_out_too(tmp_path: Path) -> None:
    base = base_model(tmp_path, "llama", "CAUSAL_LM")
    options = {"r": 4, "target_modules": ["q_proj"], "alora_invocation_tokens": [7, 8]}
    folder = adapter_folder(Case("llama", "CAUSAL_LM", LoraConfig, options, "alora"), base, tmp_path / "peft")
    backbone = load_backbone(str(base), LoadOptions(device="cpu"))
    export_adapter(import_adapter(folder, backbone, "x").file, backbone, tmp_path / "out", "gguf")
    assert read(tmp_path / "out")[0]["adapter.alora.invocation_tokens"] == [7, 8]


@pytest.mark.parametrize(
    ("architecture", "method", "options", "headless", "words"),
    [
        ("bert", "lora", {}, True, "an adapter for bert cannot be carried over"),
        ("llama", "lora", {}, False, "llama.cpp reads the model's own LM head.*--without-head"),
        ("llama", "lora", {"bias": True}, True, "no biases"),
        ("llama", "prefix", {"gate": False, "move": True}, True, "it cannot be merged into a method of peft"),
        ("llama", "bottleneck", {}, True, "the method bottleneck"),
    ],
)
def test_what_no_such_file_can_hold_is_refused(
    architecture: str, method: str, options: dict[str, Any], headless: bool, words: str, tmp_path: Path
) -> None:
    backbone = tiny_backbone(architecture)
    with pytest.raises(UsageError, match=words):
        export_adapter(build_adapter(backbone, method, options), backbone, tmp_path / "out", "gguf", headless)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"task_type": "SEQ_CLS", "use_dora": True}, ""),
        ({"r": 32}, "--max-lora-rank 32"),
        ({"r": 600}, "its rank 600 is above 512"),
        ({"use_dora": True}, "no DoRA"),
        ({"modules_to_save": ["lm_head"]}, r"modules in full \(lm_head\)"),
        ({"peft_type": "VERA"}, "this is VERA"),
        ({"alora_invocation_tokens": [1]}, "certain tokens"),
    ],
)
def test_what_servers_need_is_told(change: dict[str, Any], words: str) -> None:
    import re

    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "use_dora": False, "modules_to_save": None}
    notes = serving_notes(config | change, ["x.lora_A.weight", "x.lora_B.weight"])
    assert bool(notes) == bool(words)
    assert not words or re.search(words, notes[0])
    assert "biases" in serving_notes(config, ["x.lora_A.weight", "x.base_layer.bias"])[0]
