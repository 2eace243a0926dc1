"""LoRA on embeddings: what peft computes with the same weights; a prompt is left alone."""

import copy
from functools import cache
from typing import Any

import peft
import pytest
import torch
from architectures import tiny_backbone, tiny_language_model, tiny_model
from builders import build_adapter
from models import tiny_tokenizer

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import BackboneError
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Feature

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


@cache
def language_backbone(architecture: str) -> HuggingFaceBackbone:
    tokenizer = tiny_tokenizer()
    model = tiny_language_model(architecture, vocab_size=len(tokenizer))
    return HuggingFaceBackbone(f"tiny-{architecture}", model, tokenizer, f"blocks1:{architecture}")


def writing_adapter(backbone: HuggingFaceBackbone, method: str, options: dict[str, Any]) -> AdapterFile:
    methods, task = method_entries(method, options), make_task("generation", {})
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in assemble(backbone, methods, task).start(generator).items()
    }
    card = Card(
        name=method,
        task=entry("task", "generation", task.options),
        methods=methods,
        backbone=BackboneEntry(id=backbone.id, architecture=backbone.architecture, fingerprint=backbone.fingerprint),
        preprocessing=Preprocessing(max_length=backbone.max_length),
    )
    return AdapterFile(card, tensors)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_the_lm_head_of_an_adapter_is_the_backbones_with_a_changed_table(architecture: str) -> None:
    backbone = language_backbone(architecture)
    options = {"rank": 2, "embeddings": False, "lm_head": True}
    built = writing_adapter(backbone, "embedding-lora", options)
    tensors = built.tensors
    assert backbone.generator is not None
    plain = copy.deepcopy(backbone.generator)
    head = plain.get_output_embeddings()
    product = 16 / 2 * tensors["lm_head.lm_head_b"] @ tensors["lm_head.lm_head_a"]
    head.weight = torch.nn.Parameter(head.weight + product)  # no longer tied to the embeddings
    dock = Dock(backbone)
    dock.dock(built, "head")
    dock.dock(writing_adapter(backbone, "lora", {"rank": 3}), "other")
    tokens = [7, 8, 9, 11]
    inputs = {"input_ids": torch.tensor([tokens]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    if architecture == "t5":
        inputs["decoder_input_ids"] = torch.tensor([[0, 5, 6]])
    feature = Feature({name: tensor[0].tolist() for name, tensor in inputs.items()})
    with dock.boarding(["other", "head", "other"]) as rows:
        logits = dock.run(rows, [feature] * 3)
    with torch.no_grad():
        torch.testing.assert_close(logits[1], plain(**inputs).logits[0], atol=1e-5, rtol=0)
    text = backbone.tokenizer.decode(tokens)
    start = backbone.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    found = plain.generate(**start, max_new_tokens=6, do_sample=False)[0]
    skipped = 1 if architecture == "t5" else start["input_ids"].shape[1]
    expected = backbone.tokenizer.decode(found[skipped:], skip_special_tokens=True)
    assert dock.generate(["other", "head"], [text, text], max_new_tokens=6)[1] == expected
    assert dock.generate(["other", "head"], [text, text], max_new_tokens=6, num_beams=2)  # rows are repeated
    dock.close()


def test_an_lm_head_that_the_backbone_lacks_is_named() -> None:
    with pytest.raises(BackboneError, match="no logits port"):
        build_adapter(tiny_backbone("bert"), "embedding-lora", {"lm_head": True})
