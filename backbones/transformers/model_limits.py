"""Limits of a model in its tokenizer and configuration: vocabulary, positions, longest text, first decoder token."""

import hashlib
from typing import Any

from transformers import PreTrainedModel

LONGEST = 8192  # if neither tokenizer nor configuration has a limit


def vocabulary(tokenizer: Any) -> str:
    """Return a hash of the tokens with their numbers: with another vocabulary the same weights mean nothing."""
    if tokenizer is None:
        return ""
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return hashlib.sha256("\n".join(f"{number} {token}" for token, number in tokens).encode()).hexdigest()[:32]


def decoder_start(config: Any) -> int:
    """Return the first token of the answer of an encoder-decoder."""
    candidates = (getattr(config, "decoder_start_token_id", None), config.pad_token_id, 0)
    return next(token for token in candidates if token is not None)


def position_offset(model: PreTrainedModel) -> int:
    """Return the number of the first position: the position after the one that the table keeps for padding."""
    offsets = [
        module.padding_idx + 1
        for path, module in model.named_modules()
        if path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return max(offsets, default=0)


def max_length(model: PreTrainedModel, position_offset: int, tokenizer: Any) -> int:
    """Return the longest text in tokens, by the tokenizer's limit and the model's positions."""
    config = model.config.get_text_config()
    limits = [LONGEST]
    if tokenizer is not None and tokenizer.model_max_length < 10**9:
        limits.append(int(tokenizer.model_max_length))
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - position_offset)
    return min(limits)
