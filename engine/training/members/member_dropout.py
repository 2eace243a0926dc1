"""Dropout masks by member: a member beside others drops what it drops alone, and a resumed run what it would have.

A mask is a hash (the integer mixer ``lowbias32`` of C. Wellons) of the member's seed, its step, the number of the mask
in that pass, the row within the member's batch, and the place in the text. So it depends neither on other rows nor on
the length of their texts, and a checkpoint needs no state of a generator. Masks of the frozen weights themselves, which
all rows share, come from torch's generator.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from adaptdock.engine.core.batches import position_counts

Draw = tuple[int, int, int]
"""The step, the number of the batch in the step, and the process."""
LOW, RANGE = -(2**31), 2**32
FACTORS = (0x7FEB352D, 0x846CA68B - RANGE)
STRIDE, MASK = 0x9E3779B9 - RANGE, 0x85EBCA6B - RANGE
"""Odd factors, as signed 32-bit numbers; products wrap."""


@dataclass(frozen=True)
class DropoutSeed:
    """The seed of a member, and whether its rows use the dropout of the backbone."""

    seed: int = 0
    backbone: bool = False


class MemberDropout(TorchFunctionMode):
    """Replaces torch's dropout, of adapters and backbone, while a batch passes through the backbone."""

    def __init__(
        self, seeds: Sequence[DropoutSeed], owners: Sequence[int], draw: Draw, inputs: Mapping[str, Tensor]
    ) -> None:
        """``owners`` has the number of each row's member; ``inputs`` (R, T, ...) are those of the backbone."""
        super().__init__()
        self._owners, self._seeds, self._count = owners, seeds, len(owners)
        self._lengths = sorted(position_counts(inputs), reverse=True)
        self._masks = [0] * len(seeds)
        keys = [_key(member.seed, draw) for member in seeds]
        within: list[int] = []
        for number, owner in enumerate(owners):
            within.append(keys[owner] + STRIDE * owners[:number].count(owner))
        device = next(iter(inputs.values())).device
        self._rows = _wrapped(within).to(device)
        self._index = torch.tensor(owners).to(device)
        self._backbone = frozenset(number for number, member in enumerate(seeds) if member.backbone)
        self._dropping = self._backbone

    @contextmanager
    def of(self, members: Iterable[int]) -> Iterator[None]:
        """Drop values of these members' rows alone until the block ends: an adapter acts on them."""
        outer, self._dropping = self._dropping, frozenset(members)
        try:
            yield
        finally:
            self._dropping = outer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch; dropout, also that of attention, with the masks of the members."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is functional.scaled_dot_product_attention and (len(args) > 4 or kwargs.get("dropout_p")):
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        shape = self._shape(x)
        if not training or not 0 < p < 1 or shape is None:
            return functional.dropout(x, p, training, inplace)
        factors = self._factors(shape, p, x.dtype).reshape(x.shape)
        return x.mul_(factors) if inplace else x * factors

    def _shape(self, x: Tensor) -> tuple[int, ...] | None:
        """Return the shape of a tensor with its rows as the first dimension; None if it has none."""
        rows = self._count
        if x.ndim > 1 and x.shape[0] == rows:
            return tuple(x.shape)
        flat = x.ndim == 2 and any(x.shape[0] == rows * length for length in self._lengths)
        return (rows, x.shape[0] // rows, x.shape[1]) if flat else None

    def _factors(self, shape: tuple[int, ...], rate: float, dtype: torch.dtype) -> Tensor:
        """Return the factors of a tensor's values: zero for a dropped value, else the inverse of the share kept."""
        masks = _wrapped([MASK * number for number in self._masks]).to(self._rows.device)
        for number in self._dropping:
            self._masks[number] += 1
        hashed = _mixed(self._rows ^ masks[self._index])
        for axis, size in enumerate(shape[1:], 1):
            text = axis == 1 if len(shape) == 3 else len(shape) == 4 and axis > 1
            places = torch.arange(size, dtype=torch.int32, device=hashed.device) - (self._front(size) if text else 0)
            hashed = hashed.unsqueeze(-1) ^ _mixed(places * STRIDE + axis)
            if axis < len(shape) - 1:
                hashed = _mixed(hashed)
        # Fewer operations for all values than for their rows and places: the top bits alone decide.
        hashed *= FACTORS[0]
        hashed ^= hashed >> 15
        hashed *= FACTORS[1]
        factors = (hashed >= LOW + math.ceil(rate * RANGE)).to(dtype).mul_(1 / (1 - rate))
        if len(self._dropping) < len(self._seeds):
            spared = torch.tensor([owner not in self._dropping for owner in self._owners]).to(factors.device)
            factors = factors.masked_fill_(spared.reshape(-1, *[1] * (len(shape) - 1)), 1.0)
        return factors

    def _front(self, size: int) -> int:
        """Return the positions in front of the text, of prompts and prefixes, among ``size`` positions."""
        return size - next((length for length in self._lengths if length <= size), size)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Return scaled dot-product attention (R, H, T, D), with the masks of the members on its weights."""
        if enable_gqa:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        lowest = torch.finfo(scores.dtype).min
        if is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~seen, lowest)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, lowest) if attn_mask.dtype == torch.bool else scores + attn_mask
        return self._dropout(scores.softmax(-1), dropout_p) @ value


class MaskedActs:
    """A method whose acts drop values of an action's members alone."""

    def __init__(self, method: Any, masks: MemberDropout, members: Iterable[int]) -> None:
        self._method, self._masks, self._members = method, masks, members

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._method, name)

        def masked(*arguments: Any) -> Any:
            with self._masks.of(self._members):
                return act(*arguments)

        return masked


def _key(seed: int, draw: Draw) -> int:
    return int.from_bytes(blake2b(repr((seed, *draw)).encode(), digest_size=4).digest())


def _wrapped(numbers: Sequence[int]) -> Tensor:
    """Return numbers as signed 32-bit integers, modulo 2**32."""
    return torch.tensor([(number - LOW) % RANGE + LOW for number in numbers], dtype=torch.int32)


def _mixed(x: Tensor) -> Tensor:
    """Return a permutation of the 32-bit integers that changes half of the bits for each changed bit."""
    x = x ^ (x >> 16 & 0xFFFF)
    x = x * FACTORS[0]
    x ^= x >> 15 & 0x1FFFF
    x *= FACTORS[1]
    x ^= x >> 16 & 0xFFFF
    return x
