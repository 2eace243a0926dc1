"""The layout of a batch's positions in each half of a model, computed when a method asks for positions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adaptdock.plugins.contracts import Backbone, Batch, Layout, Port, Positions
from adaptdock.plugins.toolkit import virtual_tokens

ENCODER, DECODER, EMBEDDINGS = "encoder", "decoder", "embeddings"
"""The halves of a model, and the input embeddings, which see the tokens without a prompt."""
READS_ENCODER = ("cross_key", "cross_value")
"""Roles of ports of a decoder through which the states of the encoder pass."""


def half(port: Port) -> str:
    """Return the half of the model whose positions pass a port; a model without halves is all encoder here."""
    if port.kind == "embedding":
        return EMBEDDINGS
    return DECODER if port.stack == DECODER and port.role not in READS_ENCODER else ENCODER


def layouts(backbone: Backbone, batch: Batch) -> dict[str, Layout]:
    """Return the layout of a batch in each half of a model."""
    rows = batch.inputs["attention_mask"].shape[0]
    halves = {ENCODER: Layout(rows, lambda: _read(batch)), EMBEDDINGS: Layout(rows, lambda: _looked_up(batch))}
    if backbone.encoder_decoder:
        halves[DECODER] = Layout(rows, lambda: _answered(backbone, batch))
    return halves


def texts(inputs: Mapping[str, Tensor]) -> Layout:
    """Return the layout of the inputs without a prompt in front."""
    return Layout(inputs["attention_mask"].shape[0], lambda: _read(Batch(inputs)))


def next_tokens(tokens: Tensor, numbers: Sequence[int], prompts: Sequence[Sequence[int]]) -> dict[str, Layout]:
    """Return the layouts of a generation step, which reads one token per row (R) at these positions.

    ``prompts`` are the tokens of each row that were read before the first step.
    """

    def compute() -> Positions:
        positions = torch.tensor(numbers, device=tokens.device).unsqueeze(1)
        longest = max(map(len, prompts))
        filled = [[*[-1] * (longest - len(prompt)), *prompt] for prompt in prompts]
        prompt_ids = torch.tensor(filled, device=tokens.device)
        return Positions(torch.ones_like(positions), positions, tokens.unsqueeze(1), prompt_ids)

    return dict.fromkeys((ENCODER, EMBEDDINGS), Layout(len(tokens), compute))


def _read(batch: Batch) -> Positions:
    inputs, mask = batch.inputs, batch.inputs["attention_mask"]
    token_ids = inputs.get("input_ids")
    if batch.virtual is not None and token_ids is not None:
        token_ids, mask = virtual_tokens.token_ids(inputs, batch.virtual)
    positions = inputs["position_ids"] if "position_ids" in inputs else _counted(mask)
    if batch.shift is not None:
        positions = (positions + batch.shift.to(mask.device).unsqueeze(1)) * mask
    return Positions(mask, positions, token_ids)


def _looked_up(batch: Batch) -> Positions:
    """Return the positions of the tokens alone, counted from the end of the prompt in front of them."""
    alone = _read(Batch(batch.inputs, shift=batch.shift))
    if batch.virtual is None:
        return alone
    behind = (batch.virtual.mask != 0).sum(1, keepdim=True).to(alone.mask.device)
    return alone._replace(positions=(alone.positions + behind) * alone.mask)


def _answered(backbone: Backbone, batch: Batch) -> Positions:
    token_ids, mask = batch.inputs.get("decoder_input_ids"), batch.inputs.get("decoder_attention_mask")
    if token_ids is None:  # the decoder reads the text itself, after its start token
        text = batch.inputs["input_ids"]
        token_ids = torch.cat([torch.full_like(text[:, :1], backbone.decoder_start or 0), text[:, :-1]], dim=1)
        mask = batch.inputs["attention_mask"]
    mask = torch.ones_like(token_ids) if mask is None else mask
    return Positions(mask, _counted(mask), token_ids)


def _counted(mask: Tensor) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0) * mask
