"""LoRA on embeddings: what peft computes with the same weights; a prompt is left alone."""

import copy

import peft
import pytest
import torch
from architectures import tiny_backbone, tiny_model
from builders import build_adapter

from adaptdock.engine.inference.dock import Dock

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft
INPUTS = {"input_ids": torch.tensor([[7, 8, 9], [11, 12, 8]]), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
TABLES = {"bert": "word_embeddings", "gpt2": "wte", "llama": "embed_tokens"}


@pytest.mark.parametrize("architecture", TABLES)
def test_it_computes_what_peft_computes(architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    built = build_adapter(backbone, "embedding-lora", {"rank": 4, "alpha": 12})
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=[TABLES[architecture]])
    other = peft.get_peft_model(copy.deepcopy(tiny_model(architecture)), config).eval()
    (layer,) = (module for module in other.modules() if isinstance(module, peft.tuners.lora.Embedding))
    with torch.no_grad():
        layer.lora_embedding_A["default"].copy_(built.tensors["embeddings.embedding_a"])
        layer.lora_embedding_B["default"].copy_(built.tensors["embeddings.embedding_b"])
        expected = other(**INPUTS)[0]
    dock = Dock(backbone)
    dock.dock(built)
    dock.dock(build_adapter(backbone, "embedding-lora", {"rank": 3}, seed=1), "smaller")
    with dock.boarding(["embedding-lora", "embedding-lora"]) as rows:
        torch.testing.assert_close(dock.hidden(rows, INPUTS), expected, atol=1e-5, rtol=0)
    with dock.boarding(["smaller", "embedding-lora"]) as rows:
        torch.testing.assert_close(dock.hidden(rows, INPUTS)[1], expected[1], atol=1e-5, rtol=0)
    dock.close()
