"""The role of each norm in a transformer, read from the order of calls in its layer.

Names do not say the role: ``post_attention_layernorm`` is called before the feed-forward block in Llama, and after
attention in Gemma 2.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from torch import nn

from adaptdock.backbones.transformers.roles import Place, place
from adaptdock.plugins.contracts import Port

NORM = "norm"
BLOCKS = {"attention": "attention", "feed-forward": "ffn"}


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm (layer norm, RMS norm, ...), by the name of its class."""
    return "Norm" in type(module).__name__ and next(module.children(), None) is None


def norm_ports(
    calls: Sequence[tuple[str, nn.Module]], widths: dict[nn.Module, int], width: int, encoder_decoder: bool
) -> Iterator[Port]:
    """Yield the ports at the norms of every layer, and of each half before its first layer and after its last.

    ``calls`` are the paths of linear maps and norms in the order of their first calls; ``widths`` are the widths of
    the modules that pass on states (R, T, W) of the rows. A norm of single heads has no port.
    """
    placed = [(place(path, encoder_decoder), path, module) for path, module in calls]
    layers = [(where, path, module) for where, path, module in placed if where is not None]
    first_calls: dict[str, tuple[int, Place]] = {}
    last_calls: dict[str, tuple[int, Place]] = {}
    for number, (where, _, _) in enumerate(placed):
        if where is not None:
            first_calls.setdefault(where.stack, (number, where))
            last_calls[where.stack] = (number, where)
    for _, group in groupby(layers, key=lambda call: call[0].prefix):
        yield from _in_layer([call for call in group if not is_norm(call[2]) or widths.get(call[2]) == width], width)
    for number, (where, path, module) in enumerate(placed):
        if where is not None or not is_norm(module) or widths.get(module) != width:
            continue
        stack = _half(path) if encoder_decoder else ""
        for role, near in (("embedding_norm", first_calls.get(stack)), ("final_norm", last_calls.get(stack))):
            if near is not None and (number > near[0]) == (role == "final_norm"):
                name = f"{stack}.{role}" if stack else role
                yield Port(name, "norm", role, near[1].layer, stack, path, width, width)


def _in_layer(calls: Sequence[tuple[Place, str, nn.Module]], width: int) -> Iterator[Port]:
    """Yield the ports of a layer from its calls in order.

    A norm before a block belongs to that block. A norm after a block is a post norm if the layer has norms before
    blocks too. In a layer that begins with a block and ends with a norm, all norms come after their blocks.
    """
    kinds = [NORM if is_norm(module) else _block(where) for where, _, module in calls]
    post_norms = bool(kinds) and kinds[0] != NORM and kinds[-1] == NORM
    for number, (where, path, module) in enumerate(calls):
        if not is_norm(module):
            continue
        preceding = next((kind for kind in reversed(kinds[:number]) if kind != NORM), "")
        following = kinds[number + 1] if number + 1 < len(kinds) else NORM
        if post_norms:
            role = f"{preceding}_norm"
        else:
            role = f"{preceding}_post_norm" if following == NORM and preceding else f"{following}_norm"
        yield Port(f"{where.prefix}.{role}", "norm", role, where.layer, where.stack, path, width, width)


def _block(where: Place) -> str:
    return "cross_attention" if where.cross else BLOCKS[where.block]


def _half(path: str) -> str:
    return "decoder" if "decoder" in path.split(".") else "encoder"
