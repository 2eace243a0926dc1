"""A KV cache whose rows join and leave between two tokens.

Rows are padded on the left, and the mask hides the padding. Positions are counted over the mask, as
transformers counts them in generation, so that a row's positions do not depend on its neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from adaptdock.backbones.transformers.lm_head import device_of
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Continuation

Logits = Callable[[Tensor], Tensor]


def possible(model: PreTrainedModel) -> bool:
    """Return whether a model caches keys and values only, and can continue from them."""
    cache = DynamicCache()
    ids = torch.zeros(1, 2, dtype=torch.long, device=device_of(model.get_input_embeddings()))
    with torch.no_grad():
        try:
            model(input_ids=ids, past_key_values=cache, use_cache=True)
        except (TypeError, ValueError, AttributeError):  # the model has another kind of cache, or none
            return False
    return bool(cache.layers) and all(
        type(layer) is DynamicLayer and layer.is_initialized and layer.keys.shape[-2] == 2 for layer in cache.layers
    )


def begin(
    model: PreTrainedModel,
    given: Mapping[str, Tensor],
    logits: Logits,
    takes_positions: bool,
    shift: Tensor | None = None,
) -> tuple[Tensor, "Cached"]:
    """Read prompts (R, T), or their embeddings, and return the logits (R, V) of the next token.

    ``shift`` (R) moves the positions of each row. Raises :class:`BackboneError` for a model without position_ids.
    """
    if shift is not None and not takes_positions:
        raise BackboneError(f"{type(model).__name__} takes no position_ids, so texts cannot be shifted in it")
    mask = given["attention_mask"]
    by = torch.zeros_like(mask[:, :1]) if shift is None else shift.to(mask.device).unsqueeze(1)
    cached = Cached(model, DynamicCache(), mask, by, logits, takes_positions)
    name = "inputs_embeds" if "inputs_embeds" in given else "input_ids"
    return cached.run({name: given[name]}, (mask.cumsum(1) - 1).clamp(min=0)), cached


class Cached(Continuation):
    """Keys and values (R, heads, T, width) of every layer, the mask (R, T) that hides padding, and shifts (R, 1)."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache: DynamicCache,
        mask: Tensor,
        shift: Tensor,
        logits: Logits,
        takes_positions: bool,
    ) -> None:
        self._model, self._cache, self._mask, self._shift = model, cache, mask, shift
        self._logits, self._takes_positions = logits, takes_positions

    def run(self, inputs: Mapping[str, Any], positions: Tensor) -> Tensor:
        """Send tokens or embeddings through the model, extend the cache, and return the last logits (R, V)."""
        extra = {"position_ids": positions + self._shift} if self._takes_positions else {}
        hidden = self._model(
            **inputs, **extra, attention_mask=self._mask, past_key_values=self._cache, use_cache=True
        ).last_hidden_state
        return self._logits(hidden[:, -1:])[:, 0]

    def append(self, tokens: Tensor) -> Tensor:
        """Read one token per row (R) and return the logits (R, V) of the next token."""
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        return self.run({"input_ids": tokens.unsqueeze(1)}, self._mask.sum(1, keepdim=True) - 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, and the left padding that all remaining rows share."""
        index = torch.tensor(list(rows), device=self._mask.device)
        mask = self._mask[index]
        empty = int((mask.cumsum(1) == 0).sum(1).min())
        self._mask, self._shift = mask[:, empty:], self._shift[index]
        for layer in self._cache.layers:
            layer.keys = layer.keys[index.to(layer.keys.device), :, empty:]
            layer.values = layer.values[index.to(layer.values.device), :, empty:]

    def join(self, other: Continuation) -> None:
        """Append the rows of another cache, which may be shorter or longer."""
        assert isinstance(other, Cached)  # of the same model
        length = max(self._mask.shape[1], other._mask.shape[1])
        self._mask = torch.cat([_extended(mask, length, 1) for mask in (self._mask, other._mask)])
        self._shift = torch.cat([self._shift, other._shift])
        for layer, other_layer in zip(self._cache.layers, other._cache.layers, strict=True):
            layer.keys = torch.cat([_extended(keys, length, 2) for keys in (layer.keys, other_layer.keys)])
            layer.values = torch.cat([_extended(values, length, 2) for values in (layer.values, other_layer.values)])


def _extended(tensor: Tensor, length: int, dimension: int) -> Tensor:
    """Return a tensor with zeros in front, extended to ``length`` along a dimension."""
    padding = length - tensor.shape[dimension]
    return functional.pad(tensor, (0, 0) * (tensor.ndim - 1 - dimension) + (padding, 0)) if padding else tensor
