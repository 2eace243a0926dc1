"""Generation: texts continued (or answered) by a frozen language model, each row with its own adapters.

The search is transformers' (greedy, beams, sampling, with a KV cache); the adapters act at the
ports in every step.
"""

import secrets
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from adaptdock.engine.core.batches import tokenizer
from adaptdock.engine.core.docked_adapters import DockedAdapters, Row
from adaptdock.engine.core.forward import in_front, mixes
from adaptdock.engine.core.position_layouts import layouts
from adaptdock.engine.core.rows import moves, places
from adaptdock.errors import BackboneError, UsageError
from adaptdock.plugins.contracts import Batch, Options


class GenerationOptions(Options):
    """How a text is generated."""

    max_new_tokens: int = Field(64, gt=0)
    """Longest answer, in tokens."""
    num_beams: int = Field(1, gt=0)
    """Beams of the search; 1 is greedy, or plain sampling."""
    do_sample: bool = False
    """Draw tokens by their probability instead of taking the best."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits before tokens are drawn."""
    top_k: int = Field(50, ge=0)
    """Draw among this many tokens at most; 0 for all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw among the most probable tokens that together have this probability."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1, tokens that occurred before become less probable."""
    seed: int | None = Field(None, ge=0)
    """Seed of the draws of each text, which do not depend on the other texts; a new one each time unless given."""

    @model_validator(mode="after")
    def _one_search(self) -> Self:
        if self.do_sample and self.num_beams > 1:
            raise ValueError("beams and sampling are two ways to search: give num_beams or do_sample")
        return self


def generate(dock: DockedAdapters, rows: Sequence[Row], texts: Sequence[str], options: GenerationOptions) -> list[str]:
    """Return the continuation of each text (the answer, with an encoder-decoder), for rows that are aboard."""
    tokenize = tokenizer(dock.backbone)
    return write(dock, rows, [tokenize(text)["input_ids"] for text in texts], options)


def write(
    dock: DockedAdapters, rows: Sequence[Row], prompts: Sequence[Sequence[int]], options: GenerationOptions
) -> list[str]:
    """Return the continuation of each prompt of token ids, as text without special tokens, for rows that are aboard."""
    token_ids = write_ids(dock, rows, prompts, options)
    return dock.backbone.tokenizer.batch_decode(token_ids, skip_special_tokens=True)  # type: ignore[no-any-return]


def write_ids(
    dock: DockedAdapters, rows: Sequence[Row], prompts: Sequence[Sequence[int]], options: GenerationOptions
) -> Tensor:
    """Return the tokens (R, N) that follow each prompt of token ids, for rows that are aboard."""
    room = dock.backbone.max_length - max(sum(part.assembly.positions for part in row) for row in rows)
    inputs = lay_out(dock, prompts, room - (0 if dock.backbone.encoder_decoder else options.max_new_tokens))
    return generate_ids(dock, rows, inputs, options)


@torch.inference_mode()
def generate_ids(
    dock: DockedAdapters, rows: Sequence[Row], inputs: dict[str, Tensor], options: GenerationOptions
) -> Tensor:
    """Return the new tokens (R, at most ``max_new_tokens``), padded on the right.

    ``inputs`` are ``input_ids`` and ``attention_mask`` (R, T), padded on the left for a decoder. Raises
    :class:`BackboneError` for a backbone that cannot write.
    """
    backbone, order = dock.backbone, dock.order(rows)
    inputs = {name: tensor[order] for name, tensor in inputs.items()}
    mixed = dock.mixed([rows[number] for number in order])
    if mixes(backbone, mixed):
        raise UsageError(
            "an adapter that mixes layers for its head cannot write: the language model reads the last layer's states"
        )
    prompts = in_front(backbone, mixed, inputs)
    length = inputs["input_ids"].shape[1] + (0 if prompts is None else prompts.mask.shape[1])
    seeds = None
    if options.do_sample:
        seeds = [secrets.randbits(63) if options.seed is None else options.seed for _ in rows]
    batch = Batch(inputs, virtual=prompts, shift=moves(mixed, backbone.device), calls=dock.ports.lay_out)
    # Lengths: the prompts at first, then single tokens.
    with dock.ports.routed(mixed, {1, length}, layouts(backbone, batch), copies=options.num_beams):
        token_ids = backbone.generate(batch, options.model_dump(), seeds)
    return token_ids[places(order)]


def lay_out(dock: DockedAdapters, prompts: Sequence[Sequence[int]], room: int) -> dict[str, Tensor]:
    """Return token ids and mask (R, T) of prompts of at most ``room`` tokens; a decoder's are padded on the left."""
    backbone = dock.backbone
    tokenizer = backbone.tokenizer
    if tokenizer.pad_token_id is None:
        raise BackboneError(f"the tokenizer of {backbone.id!r} has no padding token, so texts cannot share a batch")
    longest = max(map(len, prompts))
    if longest > room:
        raise UsageError(
            f"a text has {longest} tokens; the backbone {backbone.id!r} has {backbone.max_length} positions, of which "
            f"prompts and what it shall write leave {room}. Shorten the text, or ask for fewer new tokens."
        )
    padded = tokenizer.pad({"input_ids": list(prompts)}, padding_side="right" if backbone.encoder_decoder else "left")
    return {name: torch.tensor(padded[name], device=backbone.device) for name in ("input_ids", "attention_mask")}
