"""Tiny random models of transformers, loaded like any backbone, for each form of model and what it reads."""

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from adaptdock.engine.core.loading import load_backbone
from adaptdock.plugins.contracts import Backbone, LoadOptions
from adaptdock.plugins.processors import TEXT

Shape = Literal["encoder", "decoder", "encoder-decoder", "image encoder", "sound encoder"]
SHAPES: tuple[Shape, ...] = ("encoder", "decoder", "encoder-decoder")
"""The models that read texts."""
BY_MODALITY: Mapping[str, tuple[Shape, ...]] = {
    TEXT: SHAPES,
    "images": ("image encoder",),
    "sounds": ("sound encoder",),
}
"""The models by what they read."""
PIXELS, PATCH = 32, 8
MELS, RATE, FRAMES_A_SECOND = 20, 16_000, 100
POSITIONS, WIDTH, HEADS, LAYERS = 256, 32, 4, 2
NOISE = 0.08
"""Noise on the usual start weights, which are so small that attention is uniform and hides mistakes."""
PAD, START, END, MASK, UNKNOWN = SPECIAL = ("<pad>", "<start>", "<end>", "<mask>", "<unknown>")
ON_CPU = LoadOptions(device="cpu", dtype="float32")


@cache
def tiny_backbone(shape: Shape) -> Backbone:
    """Return a loaded model of a shape; each process loads it once."""
    return load_backbone(str(tiny_model(shape)), ON_CPU)


@cache
def tiny_model(shape: Shape) -> Path:
    """Save a random model and return its folder.

    A model of texts has a byte tokenizer, which can read any text, the others have a processor of images or sounds.
    """
    import torch

    folder = Path(_root().name) / shape
    reader = _reader(shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(list(get_args(Shape)).index(shape))
        model = _model(shape, len(reader)) if shape in SHAPES else _media_model(shape)
        for parameter in model.parameters():
            parameter.add_(NOISE * torch.randn_like(parameter))
    model.save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder


def _reader(shape: Shape) -> Any:
    """Return the tokenizer of a model, its image processor or its feature extractor."""
    if shape == "image encoder":
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        return ViTImageProcessorPil(size={"height": PIXELS, "width": PIXELS})
    if shape == "sound encoder":
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor(feature_size=MELS, chunk_length=1, sampling_rate=RATE)
    return byte_tokenizer(bidirectional=shape == "encoder")


def _media_model(shape: Shape) -> Any:
    from transformers import ViTConfig, ViTModel, WhisperConfig, WhisperModel

    if shape == "image encoder":
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
        return ViTModel(ViTConfig(**sizes, intermediate_size=2 * WIDTH, image_size=PIXELS, patch_size=PATCH))
    halves = {f"{half}_{name}": size for half in ("encoder", "decoder") for name, size in _HALF.items()}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    positions = FRAMES_A_SECOND // 2  # a second of sound; the second convolution has a stride of 2
    sizes = {"d_model": WIDTH, "vocab_size": 8, "num_mel_bins": MELS, "max_source_positions": positions}
    return WhisperModel(WhisperConfig(**halves, **ids, **sizes))


_HALF = {"layers": LAYERS, "attention_heads": HEADS, "ffn_dim": 2 * WIDTH}
"""The sizes of each half of Whisper."""


@cache
def _root() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="adaptdock-check-")  # removed when the process ends


def _model(shape: Shape, words: int) -> Any:
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    layer_sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    sizes = {"vocab_size": words, "intermediate_size": 2 * WIDTH, "max_position_embeddings": POSITIONS}
    if shape == "encoder":
        return BertModel(BertConfig(**layer_sizes, **sizes, pad_token_id=0))
    if shape == "decoder":
        return LlamaForCausalLM(LlamaConfig(**layer_sizes, **sizes, **ids, num_key_value_heads=HEADS // 2))
    halves = {"d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": 2 * WIDTH, "num_layers": LAYERS, "num_heads": HEADS}
    return T5ForConditionalGeneration(
        T5Config(**halves, vocab_size=words, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0)
    )


def byte_tokenizer(bidirectional: bool) -> Any:
    """Return a byte tokenizer, which can read any text; for an encoder it adds a token at each end."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    pieces = [*SPECIAL, *sorted(ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, [], unk_token=UNKNOWN))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), Decoder()
    if bidirectional:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{START} $A {END}",
            pair=f"{START} $A {END} $B:1 {END}:1",
            special_tokens=[(piece, SPECIAL.index(piece)) for piece in (START, END)],
        )
    names = {"pad_token": PAD, "bos_token": START, "eos_token": END, "mask_token": MASK, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **names)
