"""The calls of encoder and decoder during a search, with the layout of the rows of each call."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptdock.plugins.contracts import CallHandler, Layout, Positions


@contextmanager
def reported(
    model: PreTrainedModel, handler: CallHandler | None, prompts: Tensor | None, shift: Tensor | None
) -> Iterator[None]:
    """Report this thread's calls of encoder and decoder to the handler, while the context is open.

    ``prompts`` (R, T) are the tokens of inputs that are passed as embeddings; ``shift`` (R) moves each row's positions.
    """
    if handler is None:
        yield
        return
    halves = {"encoder": model}
    if model.config.is_encoder_decoder:
        halves = {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
    with ExitStack() as stack:
        for name, module in halves.items():
            hook = _hook(name, handler, prompts, shift)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _hook(half: str, handler: CallHandler, prompts: Tensor | None, shift: Tensor | None) -> Any:
    thread, read = get_ident(), dict[str, Tensor | None]()

    def before(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if get_ident() != thread:
            return
        call = {**signature(module.forward).bind_partial(*args).arguments, **keywords}
        main_input = _main_input(call)
        cache = call.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        if not past:
            token_ids = call.get("input_ids")
            read["prompts"] = prompts if token_ids is None else token_ids
        earlier = read.get("prompts") if past else None
        compute = partial(_positions, call, main_input.shape[1], past, prompts, shift, earlier)
        handler(half, Layout(main_input.shape[0], compute))

    return before


def _main_input(call: Mapping[str, Any]) -> Tensor:
    """Return the tokens (R, T) of a call, or its embeddings (R, T, W)."""
    token_ids = call.get("input_ids")
    return call["inputs_embeds"] if token_ids is None else token_ids  # type: ignore[no-any-return]


def _positions(
    call: Mapping[str, Any],
    length: int,
    past: int,
    prompts: Tensor | None,
    shift: Tensor | None,
    earlier: Tensor | None,
) -> Positions:
    """Return the positions that a call of ``length`` tokens reads, after ``past`` tokens in its cache.

    ``earlier`` (R, S) are the tokens that the first call read.
    """
    token_ids, mask, main_input = call.get("input_ids"), call.get("attention_mask"), _main_input(call)
    rows = main_input.shape[0]
    if token_ids is None and prompts is not None:
        token_ids = prompts.repeat_interleave(rows // len(prompts), dim=0)
    if earlier is not None:  # the beams of a row follow each other
        earlier = earlier.repeat_interleave(rows // len(earlier), dim=0)
    if mask is None or mask.ndim != 2:
        mask = torch.ones(rows, past + length, dtype=torch.long, device=main_input.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    if shift is not None:
        positions = positions + shift.to(mask.device).repeat_interleave(rows // len(shift)).unsqueeze(1)
    return Positions(mask[:, -length:], (positions * mask)[:, -length:], token_ids, earlier)
