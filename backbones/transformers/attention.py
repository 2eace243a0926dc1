"""Attention calls of transformers with additional keys and values in front.

The attention interface of transformers looks up an implementation by name at each call. Here each
implementation gets a twin (``adaptdock_sdpa``), which asks the handlers of the calling module for keys and values.
Without any, the twin passes the call on unchanged.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Prepended

Handler = Callable[[Tensor, Tensor], list[Prepended]]
WRAPPED = ("sdpa", "eager")
TWIN = "adaptdock_"

_handlers: "WeakKeyDictionary[nn.Module, tuple[Handler, ...]]" = WeakKeyDictionary()
_opened: "WeakKeyDictionary[PreTrainedModel, int]" = WeakKeyDictionary()
_lock = threading.Lock()


def implementation(model: PreTrainedModel) -> str:
    """Return the name of a model's attention implementation, intercepted or not."""
    return str(model.config._attn_implementation).removeprefix(TWIN)


@contextmanager
def intercept(model: PreTrainedModel, handlers: dict[nn.Module, Handler]) -> Iterator[None]:
    """Call ``handlers[module](key, value)`` at each attention call of a module, while the context is open.

    Several contexts may be open on one model, and each is called. The model's implementation must be one of
    :data:`WRAPPED`; it is restored when the last context closes.
    """
    with _lock:
        if not _opened.get(model):
            _register(implementation(model))
            model.set_attn_implementation(TWIN + implementation(model))
        _opened[model] = _opened.get(model, 0) + 1
        for module, handler in handlers.items():
            _handlers[module] = (*_handlers.get(module, ()), handler)
    try:
        yield
    finally:
        with _lock:
            _opened[model] -= 1
            if not _opened[model]:
                model.set_attn_implementation(implementation(model))
            for module, handler in handlers.items():
                remaining = tuple(registered for registered in _handlers.pop(module) if registered is not handler)
                if remaining:  # no empty entries: compiled code looks modules up by their id
                    _handlers[module] = remaining


def _register(name: str) -> None:
    twin = TWIN + name
    if twin not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(twin, partial(_attend, name))
        AttentionMaskInterface.register(twin, ALL_MASK_ATTENTION_FUNCTIONS[name])


def _attend(
    name: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    inner = _inner(name, module)
    prepended = [piece for handler in _handlers.get(module, ()) for piece in handler(key, value)]
    if not prepended:
        return inner(module, query, key, value, attention_mask, **kwargs)
    rows, _, length, _ = query.shape
    causal = kwargs.pop("is_causal", None)
    causal = getattr(module, "is_causal", True) if causal is None else causal
    causal = causal and name != "eager"  # eager applies its mask only, and no causal mask of its own
    if attention_mask is None and causal and 1 < length < key.shape[2]:
        key, value = key[:, :, :length], value[:, :, :length]  # as sdpa does with a static cache
    bias = _additive(attention_mask, causal, query, key)
    for piece in prepended:
        if piece.text_bias is not None:
            bias = bias + _of_text(piece.text_bias, key.shape[2]).to(bias.dtype)
    for piece in prepended:
        key = torch.cat([piece.key.to(key.dtype).expand(rows, -1, -1, -1), key], dim=2)
        value = torch.cat([piece.value.to(value.dtype).expand(rows, -1, -1, -1), value], dim=2)
        by_query = piece.bias if piece.bias.ndim == 3 else piece.bias.unsqueeze(1)
        front = by_query.to(bias.dtype).unsqueeze(1).expand(rows, bias.shape[1], length, -1)
        bias = torch.cat([front, bias.expand(rows, -1, length, -1)], dim=3)  # a mask of keys alone has one query
    position_bias = kwargs.pop("position_bias", None)
    if position_bias is not None:  # T5's; the bias becomes one per head
        added = key.shape[2] - position_bias.shape[3]
        bias = (bias + nn.functional.pad(position_bias, (added, 0))).clamp(min=torch.finfo(bias.dtype).min)
    return inner(module, query, key, value, bias, is_causal=False, **kwargs)


def _of_text(bias: Tensor, keys: int) -> Tensor:
    """Return the bias of the text's keys for all heads, (R, 1, T, T).

    Raises :class:`BackboneError` if more keys are cached.
    """
    if bias.shape[2] != keys:
        raise BackboneError(
            f"an adapter masks the {bias.shape[2]} positions of a text, and the attention has {keys} keys: such an "
            f"adapter reads a text in one pass, not in parts behind a cache"
        )
    return bias.unsqueeze(1)


def _inner(name: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[name]  # type: ignore[no-any-return]


def _additive(mask: Tensor | None, causal: bool, query: Tensor, key: Tensor) -> Tensor:
    """Return the additive mask of the scores, (R or 1, H or 1, T, S), from a mask in any form."""
    length, keys = query.shape[2], key.shape[2]
    if mask is None:
        mask = torch.ones(1, 1, length, keys, dtype=torch.bool, device=query.device)
        mask = mask.tril() if causal and length > 1 else mask
    if mask.dtype != torch.bool:
        return mask
    lowest = torch.finfo(query.dtype).min
    return torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, lowest)
