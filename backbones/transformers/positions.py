"""Texts whose positions are moved: they stand behind something that is no part of the input."""

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

    Positions that there are already are moved. Else they are ``counted`` over what the mask shows, as some models do,
    or numbered from the first place on; the first of all is ``offset``.
    """
    there = inputs.get("position_ids")
    if there is not None:
        mask = inputs.get("attention_mask", torch.ones_like(there))
        return there + shift.to(mask.device).unsqueeze(1) * mask
    mask = inputs["attention_mask"]
    found = mask.cumsum(1) - 1 if counted else torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return (found + shift.to(mask.device).unsqueeze(1)) * mask + offset


@contextmanager
def moving_on(model: PreTrainedModel, shift: Tensor) -> Iterator[None]:
    """Move the positions that this thread's search gives to each row (R), which the model may hold several times."""
    mine = get_ident()

    def move(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if get_ident() != mine:
            return args, named
        given = named.get("position_ids")
        if given is None:
            raise BackboneError(f"{type(module).__name__} is given no positions, so a text cannot be moved in it")
        tokens = (*args, named.get("input_ids"), named.get("inputs_embeds"))
        rows = next(tensor for tensor in tokens if tensor is not None).shape[0]
        by = shift.to(given.device).repeat_interleave(rows // len(shift)).unsqueeze(1)
        return args, {**named, "position_ids": given + by}

    handle = model.register_forward_pre_hook(move, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
