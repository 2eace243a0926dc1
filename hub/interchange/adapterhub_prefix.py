"""Import of AdapterHub's prefixes: a row per position has the keys and values of all layers of an attention kind."""

import re
from typing import TYPE_CHECKING

from adaptdock.errors import FileError
from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.adapterhub_config import PrefixOptions
from adaptdock.hub.interchange.adapterhub_places import counted
from adaptdock.hub.interchange.incoming import Part
from adaptdock.hub.interchange.incoming_tensors import ForeignTensors, Named, contradiction, refuse
from adaptdock.plugins.contracts import Backbone, Port

if TYPE_CHECKING:
    from torch import Tensor

PREFIXES = {
    "self": "attention",
    "self_prefix": "attention",
    "encoder_prefix": "attention",
    "cross_prefix": "cross_attention",
}
POOLED = re.compile(r"(?:.*\.)?prefix_tunings\.(?P<adapter>[^.]+)\.(?P<place>\w+)\.(?P<part>(?:wte|control_trans).*)")


def read_prefix(options: PrefixOptions, name: str | None, tensors: ForeignTensors, backbone: Backbone) -> Part:
    """Read the prefixes of an adapter; raise :class:`UsageError` if the configuration describes others."""
    if hasattr(head_layouts.config_of(backbone), "relative_attention_num_buckets"):
        raise refuse("prefix tuning of a model with relative positions", "there the prefix moves the text's positions")
    pools = _pools(tensors, name)
    if not pools:
        raise refuse("this prefix", "it has no tensors")
    _check_places(options, pools, tensors, backbone)
    left_out, length, pairs = set(options.leave_out or ()), options.prefix_length, dict[str, Named]()
    for place, pool in pools.items():
        ports = [port for port in _attentions(place, backbone) if counted(port, backbone) not in left_out]
        if not ports:
            raise contradiction(tensors.path, "leave_out", sorted(left_out), next(iter(pool.values()))[0], "is there")
        heads, width = ports[0].heads, ports[0].key_width
        table = _table(options, pool, tensors, len(ports) * 2 * heads * width)  # (L, layers * 2 * H * D)
        split = table.reshape(length, len(ports), 2, heads, width).permute(1, 2, 3, 0, 4)
        for number, port in enumerate(ports):
            pairs[port.name] = {"prefix_key": split[number, 0], "prefix_value": split[number, 1]}
    return Part("prefix", {"length": length, "gate": False, "roles": tuple(pairs)}, pairs)


def _pools(tensors: ForeignTensors, name: str | None) -> dict[str, dict[str, list[str]]]:
    """Return the tensor names by place and part; each layer has a copy of the shared pool."""
    pools: dict[str, dict[str, list[str]]] = {}
    for tensor in tensors.unused:
        match = POOLED.fullmatch(tensor)
        if match is None:
            continue
        if name is not None and match["adapter"] != name:
            raise contradiction(tensors.path, "name", repr(name), tensor, f"is of an adapter {match['adapter']!r}")
        pools.setdefault(match["place"], {}).setdefault(match["part"], []).append(tensor)
    return pools


def _check_places(
    options: PrefixOptions, pools: dict[str, dict[str, list[str]]], tensors: ForeignTensors, backbone: Backbone
) -> None:
    """Raise :class:`UsageError` if an encoder-decoder has other prefixes than its configuration."""
    if not backbone.encoder_decoder:
        return
    wanted = {"encoder_prefix": options.encoder_prefix, "cross_prefix": options.cross_prefix, "self_prefix": True}
    places = {place.removeprefix(f"{backbone.architecture}_") for place in pools}
    for place, active in wanted.items():
        if active != (place in places):
            state = "is missing" if active else "is there"
            raise contradiction(tensors.path, place, "on" if active else "off", f"prefix_tunings.*.{place}", state)


def _attentions(place: str, backbone: Backbone) -> list[Port]:
    """Return the attention ports of a place, in the order of the stored prefixes."""
    role = PREFIXES.get(place.removeprefix(f"{backbone.architecture}_"))
    if role is None:
        raise refuse(f"the prefix {place}", "this place of a model is not known here")
    stack = "" if not backbone.encoder_decoder else ("encoder" if place.endswith("encoder_prefix") else "decoder")
    ports = [port for port in backbone.ports if port.kind == "attention" and port.role == role and port.stack == stack]
    if not ports:
        raise refuse(f"the prefix {place}", f"{backbone.architecture!r} has no attention there that takes one")
    return sorted(ports, key=lambda port: port.layer)


def _table(options: PrefixOptions, pool: dict[str, list[str]], tensors: ForeignTensors, width: int) -> "Tensor":
    """Take the keys and values (L, width); a reparametrization network is evaluated once."""
    from torch.nn import functional

    from adaptdock.plugins.toolkit.activations import ACTIVATIONS

    length, inner = options.prefix_length, options.bottleneck_size
    if options.flat:
        flat = _take(pool, "control_trans", tensors)
        _check(tensors, pool, "control_trans", flat, (length * width,), f"prefix_length {length}")
        return flat.view(length, width)
    table = _take(pool, "wte.weight", tensors)
    _check(tensors, pool, "wte.weight", table, (length, *table.shape[1:]), f"prefix_length {length}")
    inputs = table.shape[-1]
    shapes = {
        "control_trans.0.weight": (inner, inputs),
        "control_trans.0.bias": (inner,),
        "control_trans.2.weight": (width, inner),
        "control_trans.2.bias": (width,),
    }
    maps = {part: _take(pool, part, tensors) for part in shapes}
    for part, shape in shapes.items():
        _check(tensors, pool, part, maps[part], shape, f"bottleneck_size {inner}, a width of {width} on this backbone")
    table, *parts = (tensor.float() for tensor in (table, *maps.values()))
    hidden = ACTIVATIONS[head_layouts.function(options.non_linearity, "the prefix")](
        functional.linear(table, *parts[:2])
    )
    return functional.linear(hidden, *parts[2:])


def _take(pool: dict[str, list[str]], part: str, tensors: ForeignTensors) -> "Tensor":
    """Take a tensor and its copies; raise an error if it is missing, or if the copies differ."""
    names = pool.get(part)
    if not names:
        present = next(iter(pool.values()))[0]
        raise FileError(tensors.path, f"beside {present!r} the tensor {part!r} of the prefix is missing")
    first, *copies = (tensors.take(name) for name in names)
    for name, copy in zip(names[1:], copies, strict=True):
        if not copy.equal(first):
            raise FileError(tensors.path, f"the tensors {names[0]!r} and {name!r} differ, and are one in the library")
    return first


def _check(
    tensors: ForeignTensors,
    pool: dict[str, list[str]],
    part: str,
    tensor: "Tensor",
    shape: tuple[int, ...],
    configured: str,
) -> None:
    """Raise :class:`UsageError` for a tensor whose shape contradicts configuration or backbone."""
    if tuple(tensor.shape) != shape or len(shape) > 2:
        option, _, value = configured.partition(" ")
        state = f"has the shape {tuple(tensor.shape)}, where {shape} is expected"
        raise contradiction(tensors.path, option, value, pool[part][0], state)
