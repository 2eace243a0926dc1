"""What the output of each block is added to, seen in one small batch that goes through the frozen model.

Models that norm after the sum (BERT) add the very input of the block, and a layer norm takes the sum in. Models that
norm before (GPT-2) add what goes into the norm before the block. Neither is taken from names: the sum has to be what
the next norm is given.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from threading import get_ident
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptdock.plugins.contracts import Batch, Port, Ports, Residual

STARTS = {"attention_output": "query", "cross_attention_output": "cross_query", "ffn_down": "ffn_up"}


class Run(Protocol):
    """What is asked of a backbone here."""

    model: PreTrainedModel

    @property
    def device(self) -> torch.device:
        """Where inputs go."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the last hidden states."""


class _Seen:
    """What went into a module and came out of it, the first time in this thread: others may use the model meanwhile."""

    def __init__(self) -> None:
        self.thread = get_ident()
        self.given: dict[nn.Module, Tensor] = {}
        self.made: dict[nn.Module, Tensor] = {}

    def watch(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if get_ident() == self.thread and module not in self.given and args and isinstance(out, Tensor):
            self.given[module], self.made[module] = args[0].detach().cpu(), out.detach().cpu()  # layers share no device


@torch.no_grad()
def residuals(backbone: Run, ports: Ports) -> dict[str, Residual]:
    """Return the residual of each port that ends a block, by name; those for which none is found have none."""
    model, seen = backbone.model, _Seen()
    norms = {path: module for path, module in model.named_modules() if "Norm" in type(module).__name__}
    linear = [port for port in ports if port.kind == "linear"]
    ids = torch.tensor([[5, 6, 7], [8, 5, 9]], device=backbone.device)
    with ExitStack() as stack:
        for module in {*norms.values(), *(model.get_submodule(port.module) for port in linear)}:
            stack.callback(module.register_forward_hook(seen.watch).remove)
        backbone.forward(Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "decoder"))
    found = {}
    for port in linear:
        start = ports.find(STARTS[port.role], port) if port.role in STARTS else None
        residual = None if start is None else _residual(model, port, start, norms, seen)
        if residual is not None:
            found[port.name] = residual
    return found


def _residual(
    model: PreTrainedModel, port: Port, start: Port, norms: Mapping[str, nn.Module], seen: _Seen
) -> Residual | None:
    ended, started = model.get_submodule(port.module), model.get_submodule(start.module)
    if ended not in seen.made or started not in seen.given:
        return None
    out, entered = seen.made[ended], seen.given[started]
    sums = {path: seen.given[module] for path, module in norms.items() if module in seen.given}
    after = next((path for path, given in sums.items() if _same(given, out, entered)), None)
    if after is not None:
        return Residual(start, after)
    for path, module in norms.items():
        if module in seen.made and _equal(seen.made[module], entered):
            stream = seen.given[module]
            if any(_same(given, out, stream) for given in sums.values()):
                width = stream.shape[-1]
                return Residual(Port(path, "hidden", "norm", port.layer, port.stack, path, width, width))
    return None


def _same(given: Tensor, out: Tensor, stream: Tensor) -> bool:
    return given.shape == out.shape == stream.shape and _equal(given, out + stream)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = one.float().abs().max().clamp(min=1e-6)
    return bool((one.float() - other.float()).abs().max() <= 1e-4 * scale)
