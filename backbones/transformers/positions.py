"""Shifted positions: room in front of a text for keys and values that are not part of the input."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptdock.errors import BackboneError


def moved(inputs: Mapping[str, Tensor], shift: Tensor, counted: bool, offset: int) -> Tensor:
    """Return the positions (R, T) of tokens, each row's moved by ``shift`` (R).

    Positions in the inputs are moved. Otherwise positions are ``counted`` over the mask, as some models do, or numbered
    from the first column on; the first position is ``offset``.
    """
    position_ids = inputs.get("position_ids")
    if position_ids is not None:
        mask = inputs.get("attention_mask", torch.ones_like(position_ids))
        return position_ids + shift.to(mask.device).unsqueeze(1) * mask
    mask = inputs["attention_mask"]
    positions = mask.cumsum(1) - 1 if counted else torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return (positions + shift.to(mask.device).unsqueeze(1)) * mask + offset


@contextmanager
def moving_on(model: PreTrainedModel, shift: Tensor) -> Iterator[None]:
    """Shift the positions of each row (R) in this thread's search; beams may repeat each row."""
    thread = get_ident()

    def move(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if get_ident() != thread:
            return args, keywords
        position_ids = keywords.get("position_ids")
        if position_ids is None:
            raise BackboneError(f"{type(module).__name__} gets no position_ids, so texts cannot be shifted in it")
        tokens = (*args, keywords.get("input_ids"), keywords.get("inputs_embeds"))
        rows = next(tensor for tensor in tokens if tensor is not None).shape[0]
        by = shift.to(position_ids.device).repeat_interleave(rows // len(shift)).unsqueeze(1)
        return args, {**keywords, "position_ids": position_ids + by}

    handle = model.register_forward_pre_hook(move, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
