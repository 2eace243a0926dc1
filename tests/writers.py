"""Tiny language models that write: a tokenizer that gives any text back, and random models that know how to stop."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from architectures import tiny_language_model
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.assembly import assemble, entry, make_task, method_entries
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.train import train
from adaptdock.hub.artefact.card import BackboneEntry, Card, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Feature

PAD, START, END, FROM = "<pad>", "<start>", "<end>", "<from>"
CHAT = (
    "{% for message in messages %}<from>{{ message['role'] }}\n{{ message['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<from>assistant\n{% endif %}"
)
CORPUS = [
    "the cat sat on the mat and the dog ran\n\n",
    "a text about the sea is a text\n\n",
    "Summarize: the sum is told",
]


def writing_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with a few merges, across line breaks too."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Decoder()
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=[PAD, START, END, FROM],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    names = {"pad_token": PAD, "bos_token": START, "eos_token": END, "additional_special_tokens": [FROM]}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)
    made.chat_template = chat_template
    return made


@cache
def writing_backbone(architecture: str, chat_template: str | None = None) -> HuggingFaceBackbone:
    """Return a random language model of 128 positions that stops at its end token."""
    tokenizer = writing_tokenizer(chat_template)
    changes: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if architecture in ("llama", "bart"):
        changes["max_position_embeddings"] = 128
    model = tiny_language_model(architecture, vocab_size=len(tokenizer), **changes)
    model.generation_config.eos_token_id = 2
    return HuggingFaceBackbone(f"tiny-{architecture}", model, tokenizer, f"blocks1:writing-{architecture}")


def untrained(backbone: HuggingFaceBackbone, task: str, **options: Any) -> AdapterFile:
    """Return an adapter that changes nothing, so that the backbone itself answers."""
    methods, fitted = method_entries("lora", {"rank": 2}), make_task(task, options)
    assembly = assemble(backbone, methods, fitted)
    card = Card(
        name=task,
        task=entry("task", task, fitted.options),
        methods=methods,
        backbone=BackboneEntry(id=backbone.id, architecture=backbone.architecture, fingerprint=backbone.fingerprint),
        preprocessing=Preprocessing(max_length=backbone.max_length),
    )
    return AdapterFile(card, assembly.start(torch.Generator()))


def learn(
    backbone: HuggingFaceBackbone, task: str, rows: list[dict[str, Any]], folder: Path, epochs: int = 60, **options: Any
) -> Result:
    """Train on a few records until they are known by heart; they are the validation data and the test data too."""
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return train(
        task,
        "lora",
        backbone,
        str(folder),
        folder / "run",
        {"rank": 16, "roles": "all", "alpha": 32},
        {"max_new_tokens": 16, **options},
        epochs=epochs,
        batch_size=4,
        learning_rate=1e-2,
        patience=0,
    )


def learnt(feature: Feature) -> list[int]:
    """Return the tokens that a window teaches to write."""
    return [label for label in feature.labels if label != -100]
