"""The residual of each block, measured with one small batch through the frozen model.

Post-norm models (BERT) add the input of the block itself, and a layer norm takes the sum. Pre-norm models (GPT-2) add
the input of the norm before the block. Names are not trusted: the sum must equal the input of the next norm.
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
    """The part of a backbone that is used here."""

    model: PreTrainedModel

    def trial_inputs(self) -> dict[str, Tensor]:
        """Return the inputs of a small batch."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the last hidden states."""


class _Recorder:
    """The first input and output of each module in this thread, since other threads may use the model meanwhile."""

    def __init__(self) -> None:
        self.thread = get_ident()
        self.inputs: dict[nn.Module, Tensor] = {}
        self.outputs: dict[nn.Module, Tensor] = {}

    def watch(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if get_ident() == self.thread and module not in self.inputs and args and isinstance(out, Tensor):
            self.inputs[module], self.outputs[module] = (
                args[0].detach().cpu(),
                out.detach().cpu(),
            )  # layers share no device


@torch.no_grad()
def residuals(backbone: Run, ports: Ports) -> dict[str, Residual]:
    """Return the residual of each port at the end of a block, by port name; unclear residuals are left out."""
    model, recorder = backbone.model, _Recorder()
    norms = {path: module for path, module in model.named_modules() if "Norm" in type(module).__name__}
    linear = [port for port in ports if port.kind == "linear"]
    with ExitStack() as stack:
        for module in {*norms.values(), *(model.get_submodule(port.module) for port in linear)}:
            stack.callback(module.register_forward_hook(recorder.watch).remove)
        backbone.forward(Batch(backbone.trial_inputs(), "decoder"))
    by_port = {}
    for port in linear:
        start = ports.find(STARTS[port.role], port) if port.role in STARTS else None
        residual = None if start is None else _residual(model, port, start, norms, recorder)
        if residual is not None:
            by_port[port.name] = residual
    return by_port


def _residual(
    model: PreTrainedModel, port: Port, start: Port, norms: Mapping[str, nn.Module], recorder: _Recorder
) -> Residual | None:
    ended, started = model.get_submodule(port.module), model.get_submodule(start.module)
    if ended not in recorder.outputs or started not in recorder.inputs:
        return None
    out, entered = recorder.outputs[ended], recorder.inputs[started]
    sums = {path: recorder.inputs[module] for path, module in norms.items() if module in recorder.inputs}
    next_norm = next((path for path, norm_input in sums.items() if _same(norm_input, out, entered)), None)
    if next_norm is not None:
        return Residual(start, next_norm)
    for path, module in norms.items():
        if module in recorder.outputs and _equal(recorder.outputs[module], entered):
            stream = recorder.inputs[module]
            if any(_same(norm_input, out, stream) for norm_input in sums.values()):
                width = stream.shape[-1]
                return Residual(Port(path, "hidden", "norm", port.layer, port.stack, path, width, width))
    return None


def _same(total: Tensor, out: Tensor, stream: Tensor) -> bool:
    return total.shape == out.shape == stream.shape and _equal(total, out + stream)


def _equal(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return False
    scale = left.float().abs().max().clamp(min=1e-6)
    return bool((left.float() - right.float()).abs().max() <= 1e-4 * scale)
