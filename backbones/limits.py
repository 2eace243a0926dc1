"""Limits: the first position of a model, and the longest text it reads."""

from typing import Any

from transformers import PreTrainedModel

LONGEST = 8192  # where neither tokenizer nor configuration knows a limit


def position_offset(model: PreTrainedModel) -> int:
    """Return the number of the first position: where a table of positions has one for padding, the next."""
    offsets = [
        module.padding_idx + 1
        for path, module in model.named_modules()
        if path.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return max(offsets, default=0)


def max_length(model: PreTrainedModel, offset: int, tokenizer: Any) -> int:
    """Return the longest text in tokens, of what the tokenizer and the configuration know."""
    config = model.config.get_text_config()
    limits = [LONGEST]
    if tokenizer is not None and tokenizer.model_max_length < 10**9:
        limits.append(int(tokenizer.model_max_length))
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - offset)
    return min(limits)
