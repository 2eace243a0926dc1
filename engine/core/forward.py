"""One pass of a batch through the backbone, the same for trained and for docked adapters."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adaptdock.engine.core.layouts import ENCODER, layouts, texts
from adaptdock.engine.core.open_ports import OpenPorts, joined
from adaptdock.engine.core.rows import Rows, moves, virtual
from adaptdock.plugins.contracts import (
    Backbone,
    Batch,
    ForwardPass,
    Head,
    Layout,
    Port,
    PortKind,
    Tied,
    Virtual,
    WithRowInputs,
)


def in_front(backbone: Backbone, rows: Rows, inputs: Mapping[str, Tensor]) -> Virtual | None:
    """Return what the rows' adapters put in front of the input embeddings, or None."""
    port = _only_port(backbone, "embedding")
    return None if port is None else virtual(rows, port, texts(inputs))


def mixes(backbone: Backbone, rows: Rows) -> bool:
    """Tell whether heads read more than the last hidden states of any row."""
    port = _only_port(backbone, "layers")
    return port is not None and bool(rows.at(port))


def mixed(backbone: Backbone, rows: Rows, layers: Sequence[Tensor], layout: Layout) -> Tensor:
    """Return what heads read (R, L + T, W): the last states, or what the rows' adapters make of those of all layers."""
    port, out = _only_port(backbone, "layers"), layers[-1]
    for action in () if port is None else rows.at(port):
        span, parameters = action.span, action.parameters(out)
        part = out if span is None else out[span]
        forward_pass = ForwardPass(len(part), action.dropout, layout, 1, span, out.shape[1], out.device)
        if span is None:
            out = action.method.mix(parameters, layers, out, forward_pass)
        else:
            changed = action.method.mix(parameters, [layer[span] for layer in layers], part, forward_pass)
            out = joined(out, span, changed)
    return out


def _only_port(backbone: Backbone, kind: PortKind) -> Port | None:
    return next((port for port in backbone.ports if port.kind == kind), None)


def states(
    backbone: Backbone,
    ports: OpenPorts,
    rows: Rows,
    inputs: Mapping[str, Tensor],
    reads: str,
    encoded: Tensor | None = None,
) -> Tensor:
    """Return what heads read (R, L + T, W) of a batch, mostly the last states; L is the longest prompt of its rows.

    ``encoded`` is what this gave for the encoder half, if it has been run before; with other rows, their prompts
    may have been longer, and what these rows do not have stands at the very front.
    """
    prompts = in_front(backbone, rows, inputs)
    extra = 0 if prompts is None else prompts.mask.shape[1]
    lengths = {tensor.shape[1] + more for tensor in inputs.values() if tensor.ndim > 1 for more in (0, extra)}
    if encoded is not None:
        encoded = encoded[:, -(inputs["attention_mask"].shape[1] + extra) :]
    batch = Batch(inputs, reads, prompts, encoded, moves(rows, backbone.device))
    laid_out = layouts(backbone, batch)
    with ports.routed(rows, lengths, laid_out):
        if mixes(backbone, rows):
            return mixed(backbone, rows, backbone.layers(batch), laid_out.get(reads, laid_out[ENCODER]))
        return backbone.forward(batch)


def resumed(
    backbone: Backbone, ports: OpenPorts, rows: Rows, inputs: Mapping[str, Tensor], layer: int | None, hidden: Tensor
) -> Tensor:
    """Return what heads read (R, T, W), from the states that enter a layer.

    None says that nothing has to be computed: they are the last states, or side by side those of all layers.
    """
    if layer is None:
        return mixed(backbone, rows, torch.split(hidden, backbone.width, dim=-1), texts(inputs))
    with ports.routed(rows, {hidden.shape[1]}, layouts(backbone, Batch(inputs))):
        return backbone.resumed(inputs, layer, hidden)


def mask_for(head: Head, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return which positions (R, T) of the states that a head reads are those of the inputs."""
    answered = inputs.get("decoder_attention_mask") if head.reads == "decoder" else None
    return inputs["attention_mask"] if answered is None else answered


def for_head(
    backbone: Backbone, head: Head, hidden: Tensor, mask: Tensor, row_inputs: Mapping[str, Tensor]
) -> Tensor | Tied | WithRowInputs:
    """Return what a head is given, float32, from the states of the rows that it answers for.

    ``mask`` (R, T) tells how many positions of ``hidden`` (R, L + T, W) are those of the inputs; ``row_inputs`` are
    those that the head asks for.
    """
    given = _read_by(backbone, head, hidden, mask)
    return WithRowInputs(given, row_inputs) if head.row_inputs else given


def _read_by(backbone: Backbone, head: Head, hidden: Tensor, mask: Tensor) -> Tensor | Tied:
    own = hidden[:, -(mask.shape[1] + head.front) :]
    if head.over == "embeddings":
        return Tied(own.float().to(mask.device), backbone.embeddings().to(mask.device))
    given = backbone.vocabulary_logits(own) if head.over == "vocabulary" else own
    return given.float().to(mask.device)
