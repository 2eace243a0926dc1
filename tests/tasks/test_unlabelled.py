"""Texts without labels: blocks lose nothing, masks are fixed, perplexity is that of the model itself."""

import math
from pathlib import Path

import pytest
import torch
from models import tiny_tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import BackboneError, DataError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone, Reading
from adaptdock.tasks.clm import CLM
from adaptdock.tasks.mlm import MLM


@pytest.fixture(scope="module")
def llama() -> HuggingFaceBackbone:
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return HuggingFaceBackbone("tiny-llama", model, tokenizer, "blocks1:llama")


def test_blocks_hold_every_token_once_and_predict_each_but_the_first() -> None:
    task, reading = CLM(CLM.Options()), Reading(tiny_tokenizer(), 16, causal=True)
    (record,) = task.clean([{"text": "a quiet river " * 7}, {"text": "an owl"}], "train").records
    features = task.encode(record, reading, labelled=True)
    read = [token for feature in features for token in feature.inputs["input_ids"]]
    wanted = [token for feature in features for token in feature.labels]
    assert read[1:] == wanted[:-1]
    assert {len(feature.labels) for feature in features[:-1]} == {16}
    whole = [token for text in record["texts"] for token in reading.tokenizer(text)["input_ids"]]
    assert [*read, wanted[-1]] == whole


def test_the_perplexity_before_training_is_the_bare_models(llama: HuggingFaceBackbone, tmp_path: Path) -> None:
    made = plan(llama, "clm", "lora", Source(), {"epochs": 2, "learning_rate": 1e-2, "max_length": 64})
    result = train_plan(made, tmp_path)
    metrics = result.adapter.card.metrics
    lost = count = 0
    assert llama.generator is not None
    for feature in made.task.encode(made.records["validation"][0], made.reading, True):
        ids = torch.tensor([feature.inputs["input_ids"]])
        with torch.no_grad():
            logits = llama.generator(input_ids=ids).logits[0]
        lost += float(functional.cross_entropy(logits, torch.tensor(feature.labels), reduction="sum"))
        count += len(feature.labels)
    assert metrics["before"]["perplexity"] == pytest.approx(math.exp(lost / count), rel=1e-4)
    assert metrics["validation"]["perplexity"] < metrics["before"]["perplexity"]


def test_a_domain_adapter_is_what_a_task_adapter_stands_on(backbone: Backbone, dock: Dock, tmp_path: Path) -> None:
    domain = plan(backbone, "mlm", "lora", Source(), {"epochs": 1, "max_length": 64})
    train_plan(domain, tmp_path / "domain")
    base = tmp_path / "domain" / "best.safetensors"
    made = plan(backbone, "classification", "bottleneck", Source(), {"epochs": 1, "on": str(base)})
    result = train_plan(made, tmp_path / "task")
    assert [entry.name for entry in result.adapter.card.on] == ["mlm"]
    name = dock.dock(read_file(result.file))
    assert dock.predict(name, ["It rains in Oslo"])[0]["label"] in made.task.options.labels


def test_masks_depend_on_the_block_alone_and_copies_hide_other_tokens() -> None:
    task, reading = MLM(MLM.Options(copies=3)), Reading(tiny_tokenizer(), 64)
    (record,) = task.clean([{"text": "the otter swims in the river and eats fish"}], "train").records
    first, second = (task.encode(record, reading, labelled=True) for _ in range(2))
    assert [feature.inputs for feature in first] == [feature.inputs for feature in second]
    hidden = [{p for p, label in enumerate(feature.labels) if label != -100} for feature in first]
    assert len(hidden) == 3
    assert not hidden[0] & hidden[1]
    words = len(first[0].labels) - 2
    assert all(len(places) == round(0.15 * words) for places in hidden)
    (fixed,) = task.clean([{"text": "the otter"}], "validation").records
    assert fixed["copies"] == 1


def test_eight_of_ten_chosen_tokens_are_masked_and_one_is_another() -> None:
    task, reading = MLM(MLM.Options()), Reading(tiny_tokenizer(), 128)
    (record,) = task.clean([{"text": "abcdefghij " * 2000}], "validation").records
    features = task.encode(record, reading, labelled=True)
    mask = reading.tokenizer.mask_token_id
    chosen = [
        (token, label)
        for feature in features
        for token, label in zip(feature.inputs["input_ids"], feature.labels, strict=True)
        if label != -100
    ]
    assert sum(token == mask for token, _ in chosen) / len(chosen) == pytest.approx(0.8, abs=0.03)
    assert sum(token == label for token, label in chosen) / len(chosen) == pytest.approx(0.1, abs=0.03)


def test_a_mask_in_a_text_is_filled(backbone: Backbone, dock: Dock, tmp_path: Path) -> None:
    made = plan(backbone, "mlm", "lora", Source(), {"epochs": 1, "max_length": 64}, task_options={"guesses": 3})
    name = dock.dock(read_file(train_plan(made, tmp_path).file))
    (answer,) = dock.predict(name, ["the [MASK] eats [MASK]"])
    assert [len(fill["guesses"]) for fill in answer["fills"]] == [3, 3]
    first = answer["fills"][0]
    assert answer["text"][first["start"] : first["end"]] == first["guesses"][0]["token"]
    assert "|" in made.task.render(answer)


def test_what_cannot_be_predicted_is_refused(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match="take a causal language model"):
        plan(backbone, "clm", "lora", Source())
    with pytest.raises(DataError, match="there is no text"):
        CLM(CLM.Options()).clean([{"where": "a:1", "text": " "}], "train")
    with pytest.raises(DataError, match="a:1: a text, or a list of tokens; found 3"):
        CLM(CLM.Options()).clean([{"where": "a:1", "text": 3}], "train")
    cleaned = CLM(CLM.Options()).clean([{"where": "a:1", "text": " "}, {"where": "a:2", "text": ["a", "b"]}], "train")
    assert cleaned.notes == ["train: 1 empty texts skipped: a:1"]
    assert cleaned.records[0]["texts"] == ["a b"]
