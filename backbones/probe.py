"""One small batch through a frozen model, in which each module shows how it treats the rows.

Module names tell what a linear map is for, but not whether the rows of a batch can be told apart in what
it sees: XLNet puts positions first, DeBERTa sends tables of relative positions through its maps, and
experts see tokens picked from the whole batch. An adapter for some of the rows must not act there.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptdock.backbones import attention
from adaptdock.plugins.contracts import Prepended

ROWS, LENGTH = 2, 3  # unlike, so that they cannot be taken for each other


@dataclass(frozen=True)
class Call:
    """What an attention call shows of itself: key/value heads and their widths."""

    heads: int
    key_width: int
    value_width: int


@dataclass
class Findings:
    """What the batch has shown."""

    width: int = 0
    causal: bool = False
    attention: dict[nn.Module, Call] = field(default_factory=dict)
    seen: dict[nn.Module, bool] = field(default_factory=dict)
    """Each linear map that was called, and whether the rows could be told apart every time."""

    def rows_told(self, module: nn.Module) -> bool:
        """Tell whether a linear map takes part, and the rows of a batch can be told apart in it."""
        return self.seen.get(module, False)


def probe(
    model: PreTrainedModel,
    device: torch.device,
    linear_maps: Iterable[nn.Module],
    forward: Callable[[dict[str, Tensor]], Tensor],
) -> Findings:
    """Send two rows of three tokens through the model, the last token of the second row being another."""
    findings = Findings()
    ids = torch.full((ROWS, LENGTH), 5, device=device)
    ids[1, -1] = 6
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for module in linear_maps:
            stack.callback(module.register_forward_pre_hook(_watch_rows(findings)).remove)
        if attention.implementation(model) in attention.WRAPPED:
            handlers = {module: _watch_attention(findings, module) for module in model.modules()}
            stack.enter_context(attention.intercept(model, handlers))
        hidden = forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    findings.width = hidden.shape[-1]
    findings.causal = bool(torch.equal(hidden[0, 0], hidden[1, 0]))
    return findings


def _watch_rows(findings: Findings) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        *leading, _ = args[0].shape
        told = leading == [ROWS * LENGTH] or (len(leading) > 1 and leading[0] == ROWS)
        findings.seen[module] = told and findings.seen.get(module, True)

    return before


def _watch_attention(findings: Findings, module: nn.Module) -> attention.Handler:
    def handler(key: Tensor, value: Tensor) -> list[Prepended]:
        if key.shape[0] == ROWS:
            findings.attention[module] = Call(key.shape[1], key.shape[3], value.shape[3])
        return []

    return handler
