"""One pass of a batch through the backbone, the same for trained and for docked adapters."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from adaptdock.engine.core.batches import position_counts
from adaptdock.engine.core.open_ports import OpenPorts, joined
from adaptdock.engine.core.position_layouts import ENCODER, layouts, texts
from adaptdock.engine.core.rows import Rows, moves, virtual
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import (
    Backbone,
    Batch,
    ForwardPass,
    Head,
    Layout,
    Port,
    PortKind,
    Side,
    Tied,
    Virtual,
    WithRowInputs,
)


def in_front(backbone: Backbone, rows: Rows, inputs: Mapping[str, Tensor]) -> Virtual | None:
    """Return the embeddings that the rows' adapters put in front of the input embeddings, or None."""
    port = _only_port(backbone, "embedding")
    return None if port is None else virtual(rows, port, texts(inputs))


def mixes(backbone: Backbone, rows: Rows) -> bool:
    """Return whether the head of any row reads a mix of layers instead of the last hidden states."""
    port = _only_port(backbone, "layers")
    return port is not None and bool(rows.at(port))


def mixed(backbone: Backbone, rows: Rows, layers: Sequence[Tensor], layout: Layout) -> Tensor:
    """Return the input of the heads (R, L + T, W): the last states, or the mix of all layers of the rows' adapters."""
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
    """Return the input of the heads (R, L + T, W), mostly the last states; L is the longest prompt of the rows.

    ``encoded`` is an earlier result of this function for the encoder half. It may come from more rows with longer
    prompts; the surplus positions are at the very front, and are cut off.
    """
    prompts = in_front(backbone, rows, inputs)
    extra = 0 if prompts is None else prompts.mask.shape[1]
    lengths = {positions + front for positions in position_counts(inputs) for front in (0, extra)}
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
    """Return the input of the heads (R, T, W), computed from the states ``hidden`` that enter a layer.

    ``layer`` None needs no computation: ``hidden`` has the last states, or the states of all layers side by side.
    """
    if layer is None:
        return mixed(backbone, rows, torch.split(hidden, backbone.width, dim=-1), texts(inputs))
    with ports.routed(rows, {hidden.shape[1]}, layouts(backbone, Batch(inputs))):
        return backbone.resumed(inputs, layer, hidden)


def shared_states(
    backbone: Backbone,
    ports: OpenPorts,
    rows: Rows,
    inputs: Mapping[str, Tensor],
    reads: str,
    texts_of_rows: Sequence[int],
) -> Tensor:
    """Return the input of the heads (R, L + T, W), like :func:`states`, for rows of which some have the same text.

    Rows with the same number in ``texts_of_rows`` have equal inputs. The layers below the lowest one in which an
    adapter acts are computed once for each text.
    """
    first_rows: dict[int, int] = {}
    for row, number in enumerate(texts_of_rows):
        first_rows.setdefault(number, row)
    layer = _lowest_acting(backbone, rows)
    mixing = mixes(backbone, rows)
    if len(first_rows) == len(texts_of_rows) or backbone.encoder_decoder or any(rows.shifts):
        return states(backbone, ports, rows, inputs, reads)
    if layer == 0 or (mixing and layer is not None):
        return states(backbone, ports, rows, inputs, reads)
    of_texts = {name: tensor[list(first_rows.values())] for name, tensor in inputs.items()}
    try:
        with torch.no_grad():
            if mixing:
                entering = torch.cat(backbone.layers(Batch(of_texts)), dim=-1)
            else:
                entering = backbone.entering(of_texts, layer)
    except BackboneError:  # a model whose layers pass on more than hidden states cannot be resumed
        return states(backbone, ports, rows, inputs, reads)
    places = list(first_rows)
    index = torch.tensor([places.index(number) for number in texts_of_rows], device=entering.device)
    return resumed(backbone, ports, rows, inputs, layer, entering.index_select(0, index))


def _lowest_acting(backbone: Backbone, rows: Rows) -> int | None:
    """Return the lowest layer in which an adapter of the rows acts, None without any.

    The mix of layers and the LM head come after all layers.
    """
    sides: tuple[Side, ...] = ("output", "input", "front")
    below = (port for port in backbone.ports if port.kind not in ("layers", "logits"))
    acting = (port for port in below if any(rows.at(port, side) for side in sides))
    return min((port.layer for port in acting), default=None)


def routed_lm_head(ports: OpenPorts, head: Head, rows: Rows, hidden: Tensor) -> AbstractContextManager[None]:
    """Return a context in which the LM head has the adapters of the rows with these states (R, L + T, W).

    For a head that does not read the LM head, the context does nothing.
    """
    lengths = range(1, hidden.shape[1] + 1)  # a head without the prompt's positions reads fewer
    return ports.routed(rows, lengths, {}) if head.over == "vocabulary" else nullcontext()


def mask_for(head: Head, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the mask (R, T) of the inputs that a head reads: the decoder's answer, or the text."""
    answered = inputs.get("decoder_attention_mask") if head.reads == "decoder" else None
    return inputs["attention_mask"] if answered is None else answered


def for_head(
    backbone: Backbone, head: Head, hidden: Tensor, mask: Tensor, row_inputs: Mapping[str, Tensor]
) -> Tensor | Tied | WithRowInputs:
    """Return the input of a head, float32, from the states of its rows.

    ``mask`` (R, T) has the positions of the inputs, without the L prompt positions of ``hidden`` (R, L + T, W);
    ``row_inputs`` are the row inputs that the head declares.
    """
    head_input = _read_by(backbone, head, hidden, mask)
    return WithRowInputs(head_input, row_inputs) if head.row_inputs else head_input


def _read_by(backbone: Backbone, head: Head, hidden: Tensor, mask: Tensor) -> Tensor | Tied:
    text_states = hidden[:, -(mask.shape[1] + head.front) :]
    if head.over == "embeddings":
        return Tied(text_states.float().to(mask.device), backbone.embeddings().to(mask.device))
    head_input = backbone.vocabulary_logits(text_states) if head.over == "vocabulary" else text_states
    return head_input.float().to(mask.device)
