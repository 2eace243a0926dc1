"""Write a llama2.c checkpoint and its vocabulary as a model folder of transformers.

    python scripts/convert_llama2c.py stories260K.bin tok512.bin stories260k

Format (github.com/karpathy/llama2.c, export.py's version 0 and run.c): seven int32, which are dim, hidden_dim, layers,
heads, key-value heads, vocabulary (negative where the classifier is a matrix of its own) and positions; then float32
weights, all layers of a kind after each other. Vocabulary: int32, the longest piece; then for each token its score as
float32, its length as int32, and its bytes.

llama2.c turns neighbours (2i, 2i + 1) of queries and keys by their position, transformers (i, i + half): the rows of
those two matrices change places. The folder can be a backbone: ``adapt train --backbone stories260k``.
"""

import argparse
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
BYTES = 3
"""The token of the first byte: three special ones stand before."""


class FormatError(ValueError):
    """A file is not what it should be; the message names it."""


@dataclass(frozen=True)
class Shape:
    """What a checkpoint's header says."""

    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    positions: int
    shared: bool
    """Whether the classifier is the table of embeddings."""

    @property
    def head(self) -> int:
        """The width of one head."""
        return self.width // self.heads

    def blocks(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the file's parts, in its order, by names of transformers where it has such."""
        keys, layers = self.key_heads * self.head, self.layers
        own = {} if self.shared else {"classifier": (self.vocabulary, self.width)}
        return {
            "embeddings": (self.vocabulary, self.width),
            "input_layernorm": (layers, self.width),
            "self_attn.q_proj": (layers, self.width, self.width),
            "self_attn.k_proj": (layers, keys, self.width),
            "self_attn.v_proj": (layers, keys, self.width),
            "self_attn.o_proj": (layers, self.width, self.width),
            "post_attention_layernorm": (layers, self.width),
            "mlp.gate_proj": (layers, self.inner, self.width),
            "mlp.down_proj": (layers, self.width, self.inner),
            "mlp.up_proj": (layers, self.inner, self.width),
            "norm": (self.width,),
            "cosines": (self.positions, self.head // 2),
            "sines": (self.positions, self.head // 2),
            **own,
        }

    def config(self) -> LlamaConfig:
        """Return the configuration of the same model in transformers."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=self.positions,
            rms_norm_eps=1e-5,
            tie_word_embeddings=self.shared,
            bos_token_id=1,
            eos_token_id=2,
            dtype="float32",
        )


def read_checkpoint(path: Path) -> tuple[Shape, dict[str, Tensor]]:
    """Return the shape and the parts of a checkpoint; raise :class:`FormatError` where it is none."""
    content = path.read_bytes()
    if content[:4] in (b"24ka", b"ak42"):
        raise FormatError(f"{path}: a checkpoint of version 1 or 2; export it with --version 0")
    if len(content) < 28:
        raise FormatError(f"{path}: {len(content)} bytes are too few for a header of seven numbers")
    width, inner, layers, heads, key_heads, vocabulary, positions = struct.unpack("<7i", content[:28])
    shape = Shape(width, inner, layers, heads, key_heads, abs(vocabulary), positions, vocabulary > 0)
    if (
        min(width, inner, layers, heads, key_heads, shape.vocabulary, positions) < 1
        or width % heads
        or heads % key_heads
    ):
        raise FormatError(f"{path}: no header of llama2.c, version 0: {shape}")
    blocks = shape.blocks()
    wanted = 28 + 4 * sum(int(np.prod(block)) for block in blocks.values())
    if len(content) != wanted:
        raise FormatError(f"{path}: {len(content)} bytes, where its header makes {wanted} of a version 0 file: {shape}")
    numbers, found, start = np.frombuffer(content, dtype="<f4", offset=28), {}, 0
    for name, block in blocks.items():
        size = int(np.prod(block))
        found[name] = torch.from_numpy(numbers[start : start + size].astype(np.float32)).view(block)
        start += size
    return shape, found


def named_as_transformers(shape: Shape, parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's weights under the names, and in the order of rows, of transformers' Llama."""
    found = {"model.embed_tokens.weight": parts["embeddings"], "model.norm.weight": parts["norm"]}
    found["lm_head.weight"] = parts["embeddings"] if shape.shared else parts["classifier"]
    for name, stacked in parts.items():
        if "layernorm" in name or "proj" in name:
            for layer, weight in enumerate(stacked):
                turned = name in ("self_attn.q_proj", "self_attn.k_proj")
                found[f"model.layers.{layer}.{name}.weight"] = _halves(weight, shape.head) if turned else weight.clone()
    return found


def _halves(weight: Tensor, head: int) -> Tensor:
    """Move rows (2i, 2i + 1) of each head to (i, i + half)."""
    rows, width = weight.shape
    return weight.view(rows // head, head // 2, 2, width).transpose(1, 2).reshape(rows, width)


def read_vocabulary(path: Path, size: int) -> list[tuple[bytes, float]]:
    """Return the pieces with their scores; raise :class:`FormatError` where there are not so many."""
    content, found, start = path.read_bytes(), [], 4
    while start + 8 <= len(content):
        score, length = struct.unpack("<fi", content[start : start + 8])
        piece = content[start + 8 : start + 8 + length]
        if length < 0 or len(piece) != length:
            raise FormatError(f"{path}: token {len(found)} is broken off")
        found.append((piece, score))
        start += 8 + length
    if len(found) != size or start != len(content):
        raise FormatError(f"{path}: {len(found)} tokens, and the checkpoint has {size}; they belong to each other")
    if any(piece != f"<0x{byte:02X}>".encode() for byte, (piece, _) in enumerate(found[BYTES : BYTES + 256])):
        raise FormatError(f"{path}: tokens {BYTES} to {BYTES + 255} are not the bytes")
    return found


def make_tokenizer(vocabulary: Sequence[tuple[bytes, float]], positions: int) -> PreTrainedTokenizerFast:
    """Return a fast tokenizer that merges as run.c does: always the two neighbours whose union scores best.

    A text begins with a space of its own, and what no piece stands for becomes bytes.
    """
    names = [UNKNOWN, BEGIN, END, *(piece.decode() for piece, _ in vocabulary[BYTES:])]
    ids = {name: number for number, name in enumerate(names)}
    whole = sorted(range(BYTES + 256, len(names)), key=lambda number: -vocabulary[number][1])
    merges = [
        (names[number][:cut], names[number][cut:])
        for number in whole
        for cut in range(1, len(names[number]))
        if names[number][:cut] in ids and names[number][cut:] in ids
    ]
    tokenizer = Tokenizer(BPE(ids, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN}:1 $B:1", special_tokens=[(BEGIN, ids[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=positions,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def convert(checkpoint: Path, vocabulary: Path, folder: Path) -> Any:
    """Write the model folder and return the model."""
    shape, parts = read_checkpoint(checkpoint)
    tokenizer = make_tokenizer(read_vocabulary(vocabulary, shape.vocabulary), shape.positions)
    model = LlamaForCausalLM(shape.config()).eval()
    model.load_state_dict(named_as_transformers(shape, parts))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        model = convert(arguments.checkpoint, arguments.tokenizer, arguments.folder)
    except (FormatError, OSError) as error:
        parser.error(str(error))
    print(f"{arguments.folder}: {model.num_parameters():,} weights")


if __name__ == "__main__":
    main()
