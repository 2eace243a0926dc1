"""The effective weights of a model that peft has changed, read from what its layers compute.

A linear layer of peft is affine whatever its method (a product of factors, a rotation, a mask, ...): zeros and an
identity matrix sent through it in float64 show its weight and bias. A norm is read by a regression, an embedding by its
tokens. Each reading is compared with what the layer computes on random numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adaptdock.plugins.toolkit.interchange.tensors import refuse

AFFINE = 1e-5
"""Largest relative difference of a layer from its reading."""
CHUNK = 1024
"""Number of unit vectors that are sent through a layer at a time."""
SAMPLES = 16

Pair = tuple[str, nn.Module, nn.Module]


def pairs(base: nn.Module, tuned: nn.Module, path: str = "") -> Iterator[Pair]:
    """Yield path, module and changed module for each innermost module of a base model, and for each changed module."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    if isinstance(tuned, ModulesToSaveWrapper):
        tuned = tuned.modules_to_save[tuned.active_adapters[0]]
    children = list(base.named_children())
    if not children or isinstance(tuned, BaseTunerLayer | TrainableTokensWrapper):
        yield path, base, tuned
        return
    if base._parameters:
        yield path, base, tuned
    for name, child in children:
        yield from pairs(child, getattr(tuned, name), f"{path}.{name}" if path else name)


def same(base: nn.Module, tuned: nn.Module) -> bool:
    """Return whether a module is unchanged: of the same class, with the same parameters."""
    if type(base) is not type(tuned):
        return False
    frozen, changed = base._parameters, tuned._parameters
    return all(_equal(frozen[name], changed.get(name)) for name in frozen)


def _equal(tensor: Tensor | None, changed: Tensor | None) -> bool:
    if tensor is None or changed is None:
        return tensor is changed
    return torch.equal(tensor, changed) or bool(tensor.isnan().all() and changed.isnan().all())


@torch.no_grad()
def affine(module: nn.Module, inputs: int, path: str) -> tuple[Tensor, Tensor]:
    """Return weight (outputs, inputs) and bias (outputs) of a linear layer, float64.

    Raises :class:`UsageError` for a layer that is not affine, or mixes positions.
    """
    with _precise(module, torch.zeros(1, 1, inputs)) as compute:
        bias = compute(torch.zeros(1, 1, inputs))[0, 0]
        units = torch.eye(inputs)
        starts = range(0, inputs, CHUNK)
        weight = torch.cat([compute(units[None, start : start + CHUNK])[0] - bias for start in starts]).mT
        x = _random(1, SAMPLES, inputs)
        _check(compute(x), x @ weight.mT + bias, f"the change at {path}", "it is not a linear function of each token")
    return weight, bias


@torch.no_grad()
def table(module: nn.Module, words: int, path: str) -> Tensor:
    """Return the table (V, W) of an embedding, float64."""
    tokens = torch.arange(words).unsqueeze(0)
    with _precise(module, tokens[:, :1]) as compute:
        result = compute(tokens)[0]
        _check(compute(tokens[:, :2])[0], result[:2], f"the change at {path}", "a vector depends on other tokens")
    return result


@torch.no_grad()
def gain_and_shift(base: nn.Module, tuned: nn.Module, width: int, path: str) -> tuple[Tensor, Tensor]:
    """Return g and s (W) with ``tuned(x) = (1 + g) * base(x) + s``, float64.

    Raises :class:`UsageError` if there are none.
    """
    x = _random(1, SAMPLES, width)
    results = []
    for module in (base, tuned):
        with _precise(module, x) as compute:
            results.append(compute(x)[0])
    frozen, changed = results
    centred = frozen - frozen.mean(0)
    spread = centred.square().sum(0)
    factor = torch.where(spread > 0, (centred * changed).sum(0) / spread.clamp(min=1e-300), 1.0)
    shift = (changed - factor * frozen).mean(0)
    _check(changed, factor * frozen + shift, f"the change at {path}", "the frozen norm is zero there")
    return factor - 1, shift


@contextmanager
def _precise(module: nn.Module, sample: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function that computes a module in float64; in float32 if parts of it know no other precision."""
    layer: Any = module

    def compute(x: Tensor) -> Tensor:
        dtype = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float64)
        result: Tensor = layer(x.to(dtype) if x.is_floating_point() else x)
        return result.double()

    module.double()
    try:
        try:
            compute(sample)
        except RuntimeError:  # torch's, for a product of different dtypes
            module.float()
        yield compute
    finally:
        module.float()


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _check(computed: Tensor, expected: Tensor, what: str, why: str) -> None:
    if not (computed - expected).norm() <= AFFINE * computed.norm():
        raise refuse(what, why)
