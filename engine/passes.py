"""One pass of a batch through the backbone, the same for trained and for docked adapters."""

from collections.abc import Mapping

from torch import Tensor

from adaptdock.engine.ports import OpenPorts
from adaptdock.engine.rows import Rows, virtual
from adaptdock.plugins.contracts import Backbone, Head, Tied, Virtual


def in_front(backbone: Backbone, rows: Rows) -> Virtual | None:
    """Return what the rows' adapters put in front of the input embeddings, or None."""
    port = next((port for port in backbone.ports if port.kind == "embedding"), None)
    return None if port is None else virtual(rows, port)


def states(
    backbone: Backbone,
    ports: OpenPorts,
    rows: Rows,
    inputs: Mapping[str, Tensor],
    reads: str,
    encoded: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states (R, L + T, W) of a batch; L is the longest prompt among its rows.

    ``encoded`` is what this gave for the encoder half, if it has been run before; with other rows, their prompts
    may have been longer, and what these rows do not have stands at the very front.
    """
    prompts = in_front(backbone, rows)
    extra = 0 if prompts is None else prompts.mask.shape[1]
    lengths = {tensor.shape[1] + more for tensor in inputs.values() if tensor.ndim > 1 for more in (0, extra)}
    if encoded is not None:
        encoded = encoded[:, -(inputs["attention_mask"].shape[1] + extra) :]
    with ports.routed(rows, lengths):
        return backbone.forward(inputs, reads, prompts, encoded)


def resumed(
    backbone: Backbone, ports: OpenPorts, rows: Rows, inputs: Mapping[str, Tensor], layer: int | None, hidden: Tensor
) -> Tensor:
    """Return the last hidden states (R, T, W), from those that enter a layer; None says that they are the last ones."""
    if layer is None:
        return hidden
    with ports.routed(rows, {hidden.shape[1]}):
        return backbone.resumed(inputs, layer, hidden)


def mask_for(head: Head, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return which positions (R, T) of the states that a head reads are those of the inputs."""
    answered = inputs.get("decoder_attention_mask") if head.reads == "decoder" else None
    return inputs["attention_mask"] if answered is None else answered


def for_head(backbone: Backbone, head: Head, hidden: Tensor, mask: Tensor) -> Tensor | Tied:
    """Return what a head is given, float32, from the states of the rows that it answers for.

    ``mask`` (R, T) tells how many positions of ``hidden`` (R, L + T, W) are those of the inputs.
    """
    own = hidden[:, -mask.shape[1] :]
    if head.over == "embeddings":
        return Tied(own.float().to(mask.device), backbone.embeddings().to(mask.device))
    given = backbone.vocabulary_logits(own) if head.over == "vocabulary" else own
    return given.float().to(mask.device)
