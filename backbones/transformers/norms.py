"""The role of each norm in a transformer, read from when it is called: what comes before it in its layer, and after.

Names do not tell: ``post_attention_layernorm`` comes before the feed-forward block in Llama, and after attention in
Gemma 2.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from torch import nn

from adaptdock.backbones.transformers.roles import Place, place
from adaptdock.plugins.contracts import Port

NORM = "norm"
BLOCKS = {"attention": "attention", "feed-forward": "ffn"}


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a layer norm or its like, of whatever class."""
    return "Norm" in type(module).__name__ and next(module.children(), None) is None


def norm_ports(
    calls: Sequence[tuple[str, nn.Module]], widths: dict[nn.Module, int], width: int, encoder_decoder: bool
) -> Iterator[Port]:
    """Yield the ports at the norms of every layer, and at the one after the last layer of each half.

    ``calls`` are the paths of linear maps and norms in the order in which they are first called; ``widths`` are those
    of the modules through which the states (R, T, W) of the rows pass. A norm of single heads has no port.
    """
    placed = [(place(path, encoder_decoder), path, module) for path, module in calls]
    layers = [(where, path, module) for where, path, module in placed if where is not None]
    last: dict[str, tuple[int, Place]] = {}
    for number, (where, _, _) in enumerate(placed):
        if where is not None:
            last[where.stack] = (number, where)
    for _, group in groupby(layers, key=lambda call: call[0].prefix):
        yield from _in_layer([call for call in group if not is_norm(call[2]) or widths.get(call[2]) == width], width)
    for number, (where, path, module) in enumerate(placed):
        if where is not None or not is_norm(module) or widths.get(module) != width:
            continue
        stack = _half(path) if encoder_decoder else ""
        if stack in last and number > last[stack][0]:
            name = f"{stack}.final_norm" if stack else "final_norm"
            yield Port(name, "norm", "final_norm", last[stack][1].layer, stack, path, width, width)


def _in_layer(calls: Sequence[tuple[Place, str, nn.Module]], width: int) -> Iterator[Port]:
    """Yield the ports of a layer, whose calls come in their order.

    A norm before a block is that block's, and one after it is named so where others stand before the blocks. In a
    layer that begins with a block and ends with a norm all norms come after their blocks.
    """
    kinds = [NORM if is_norm(module) else _block(where) for where, _, module in calls]
    after = bool(kinds) and kinds[0] != NORM and kinds[-1] == NORM
    for number, (where, path, module) in enumerate(calls):
        if not is_norm(module):
            continue
        before = next((kind for kind in reversed(kinds[:number]) if kind != NORM), "")
        following = kinds[number + 1] if number + 1 < len(kinds) else NORM
        if after:
            role = f"{before}_norm"
        else:
            role = f"{before}_post_norm" if following == NORM and before else f"{following}_norm"
        yield Port(f"{where.prefix}.{role}", "norm", role, where.layer, where.stack, path, width, width)


def _block(where: Place) -> str:
    return "cross_attention" if where.cross else BLOCKS[where.block]


def _half(path: str) -> str:
    return "decoder" if "decoder" in path.split(".") else "encoder"
