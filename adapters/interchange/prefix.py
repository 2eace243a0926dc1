"""Prefixes in the formats of PEFT and AdapterHub: a row per position has the keys and values of all layers.

AdapterHub has a pool of such rows for each attention kind, of which each layer stores a copy.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.errors import FileError
from adaptdock.plugins.contracts import Backbone, Port
from adaptdock.plugins.toolkit.activations import ACTIVATIONS
from adaptdock.plugins.toolkit.interchange.activations import our_name
from adaptdock.plugins.toolkit.interchange.adapterhub import (
    GATED,
    AdapterHubMethod,
    AdapterHubSource,
    AdapterHubTarget,
    MethodOptions,
    left_out,
)
from adaptdock.plugins.toolkit.interchange.options import Count
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftSource, PeftTarget, VirtualOptions
from adaptdock.plugins.toolkit.interchange.peft_virtual import TABLE, read_table
from adaptdock.plugins.toolkit.interchange.ports import config_of, ends
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors, MethodWeights, Named, contradiction, refuse

PARTS = "prefix_key", "prefix_value"
RELATIVE = "relative_attention_num_buckets"
"""An option of models with relative positions."""
GATES = re.compile(r"(?P<module>.+)\.prefix_tuning\.prefix_gates\.[^.]+\.(?P<part>weight|bias)")
SHIFTED = math.exp(0.5)
"""The gate that adds one to the scores of a position."""
ATTENTION = {
    ("sdpa", True): "the prefix acts as in AdapterHub under sdpa, its default, in a text without padding: a position "
    "attends to as many prefix positions as it has predecessors, itself included. --attention sdpa-padded is what the "
    "library computes in padded batches of a model that is only a decoder, where it hides the prefix, and --attention "
    "eager what it computes with attn_implementation='eager'",
    ("sdpa", False): "the prefix acts as in AdapterHub without padding. --attention sdpa-padded is what the library "
    "computes in padded batches under sdpa, its default, where it adds one to the scores of the prefix",
    ("sdpa-padded", True): "the prefix is hidden, as in padded batches of AdapterHub under sdpa, its default; without "
    "padding the library computes --attention sdpa",
    ("sdpa-padded", False): "the scores of the prefix have one added, as in padded batches of AdapterHub under sdpa, "
    "its default; without padding the library computes --attention sdpa",
    ("eager", True): "the prefix acts as with AdapterHub's eager attention; under sdpa, the library's default, logits "
    "differ",
    ("eager", False): "the prefix acts as with AdapterHub's eager attention; in padded batches under sdpa, the "
    "library's default, logits differ",
}
"""Attention, and whether it is causal -> the note."""
POOLED = re.compile(r"(?:.*\.)?prefix_tunings\.(?P<adapter>[^.]+)\.(?P<place>\w+)\.(?P<part>(?:wte|control_trans).*)")


class PrefixOptions(MethodOptions):
    """AdapterHub's options of prefix tuning."""

    shared_gating: bool = True
    encoder_prefix: bool = True
    cross_prefix: bool = True
    flat: bool = False
    prefix_length: Count = 30
    bottleneck_size: Count = 512
    non_linearity: str | None = "tanh"


# ------------------------------------------------------------------------------------------- tables


def _pairs(table: Tensor, ports: Sequence[Port], length: int) -> dict[str, Named]:
    """Return the keys and values of each port, (H, L, D), from a table (L, layers * 2 * H * D)."""
    heads, width = ports[0].heads, ports[0].key_width
    split = table.reshape(length, len(ports), 2, heads, width).permute(1, 2, 3, 0, 4)
    return {port.name: dict(zip(PARTS, split[number], strict=True)) for number, port in enumerate(ports)}


def _table_of(ports: Sequence[Port], tensors: Mapping[str, Named]) -> Tensor:
    """Return the table (L, layers * 2 * H * D) of several ports, in the order of their layers."""
    ordered = sorted(ports, key=lambda port: port.layer)
    pairs = [tensors[port.name][part] for port in ordered for part in PARTS]
    return torch.stack(pairs).permute(2, 0, 1, 3).flatten(1)  # (layers * 2, H, L, D) -> (L, layers * 2 * H * D)


def _is_gated(options: Mapping[str, Any], tensors: Mapping[str, Named], constants: tuple[float, ...] = (1.0,)) -> bool:
    """Return whether a port has a gate that is none of these constants."""
    return options["gate"] and any(
        all((parameters["prefix_gate"].float().abs() - value).abs().max() > 1e-6 for value in constants)
        for parameters in tensors.values()
    )


def _gates(source: AdapterHubSource[PrefixOptions], ports: Sequence[Port]) -> dict[str, Named]:
    """Take the gate of each port: weight (1 or 2, W) and bias (1 or 2)."""
    count = 1 if source.options.shared_gating else 2
    groups = source.tensors.modules(GATES)
    gates: dict[str, Named] = {}
    for port in ports:
        group = next((groups[module] for module in groups if ends(module, port.module)), None)
        if group is None:
            raise contradiction(source.tensors.path, "use_gating", True, f"{port.module}.prefix_gates", "is missing")
        reason = f"shared_gating is {source.options.shared_gating}"
        gates[port.name] = {
            "gate_weight": group.taken("weight", (count, source.backbone.width), reason),
            "gate_bias": group.taken("bias", (count,), reason),
        }
    return gates


# --------------------------------------------------------------------------------------------- PEFT


def from_peft(source: PeftSource[VirtualOptions]) -> MethodWeights:
    """Read a prefix; raise :class:`UsageError` for a model in which PEFT's acts in another way, or does not fit."""
    options, backbone = source.options, source.backbone
    config = config_of(backbone)
    if backbone.encoder_decoder:
        raise refuse(
            "prefix tuning of an encoder-decoder",
            "peft puts it into the decoder's caches, where it gets relative positions and hides the encoder",
        )
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise refuse("prefix tuning with sliding windows", "peft's prefix leaves the window, ours never does")
    ports = sorted(backbone.ports.select("attention", ("attention",)), key=lambda port: port.layer)
    heads, width, length = ports[0].heads, ports[0].key_width, options.num_virtual_tokens
    if ports[0].value_width != width:
        raise refuse("prefix tuning", f"the keys here are {width} wide, the values {ports[0].value_width}")
    for option, configured, here in (
        ("num_layers", options.num_layers, len(ports)),
        ("num_attention_heads", options.num_attention_heads, heads),
        ("token_dim", options.token_dim, heads * width),
    ):
        if configured not in (None, here):
            raise refuse("prefix tuning", f"{option} is {configured} in the configuration, and {here} on this backbone")
    table = read_table(source, length, len(ports) * 2 * heads * width)
    return MethodWeights({"length": length, "gate": False, "move": True}, _pairs(table, ports, length))


def to_peft(options: Mapping[str, Any], target: PeftTarget) -> PeftAdapter:
    """Write a prefix; raise :class:`UsageError` for a prefix without an equal in PEFT."""
    if _is_gated(options, target.tensors):
        raise refuse("a gated prefix", "peft's prefix has no gates (train with --no-gate)")
    if options["text_gates"]:
        raise refuse("a prefix with gates of a text", "peft's prefix has none (train with --text-gates 0)")
    if options["top_left"]:
        raise refuse("a prefix with a top-left mask", "peft's shows it to all positions (train without --top-left)")
    if not options["move"]:
        raise refuse("a prefix that leaves positions alone", "peft's moves the text behind it (train with --move)")
    ports = [target.port(name) for name in target.tensors]
    if target.backbone.encoder_decoder or len(ports) < target.layers:
        raise refuse("this prefix", "peft's prefix is in every layer of a model with one stack")
    first = min(ports, key=lambda port: port.layer)
    size = first.heads * first.key_width
    config = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": options["length"],
        "prefix_projection": False,
        "encoder_hidden_size": size,
        "token_dim": size,
        "num_transformer_submodules": 1,
        **target.sizes(),
        "num_attention_heads": first.heads,
    }
    return PeftAdapter(config, {TABLE: _table_of(ports, target.tensors)}, prompt_learning=True)


# --------------------------------------------------------------------------------------- AdapterHub


def from_adapterhub(source: AdapterHubSource[PrefixOptions]) -> MethodWeights:
    """Read the prefixes of an adapter; raise :class:`UsageError` if the configuration describes others."""
    options, tensors, backbone = source.options, source.tensors, source.backbone
    options.check_carried("a prefix")
    if hasattr(config_of(backbone), RELATIVE):
        raise refuse("prefix tuning of a model with relative positions", "there the prefix moves the text's positions")
    pools = _pools(tensors, source.name)
    if not pools:
        raise refuse("this prefix", "it has no tensors")
    _check_places(options, pools, tensors, backbone)
    without, pairs = set(options.leave_out or ()), dict[str, Named]()
    for place, pool in pools.items():
        ports = [port for port in source.model.prefix_ports(place) if source.model.layer(port) not in without]
        if not ports:
            raise contradiction(tensors.path, "leave_out", sorted(without), next(iter(pool.values()))[0], "is there")
        table = _table(options, pool, tensors, len(ports) * 2 * ports[0].heads * ports[0].key_width)
        pairs |= _pairs(table, ports, options.prefix_length)
        if options.use_gating:
            for name, gate in _gates(source, ports).items():
                pairs[name] |= gate
    if options.use_gating:
        source.notes.append(GATED)
    gates = 0 if not options.use_gating else 1 if options.shared_gating else 2
    values = {"length": options.prefix_length, "gate": False, "text_gates": gates, "roles": tuple(pairs)}
    return MethodWeights(values | _acting(source, pairs), pairs)


def _acting(source: AdapterHubSource[PrefixOptions], pairs: dict[str, Named]) -> dict[str, Any]:
    """Return the options of a prefix in the attention of the source, with a note; add constant gates where needed.

    Read in adapters 1.3 (``methods/prefix_tuning.py``) with transformers 4.57. Under sdpa a causal text without padding
    has no mask, so torch masks prefix and text as one causal text; with padding it has a mask of true and false, in
    which the library writes false for the prefix. Decoders of encoder-decoders get no mask of padding, so there both
    are the same. The mask of DistilBERT is added to the scores, and the library writes one.
    """
    length, masks, shifts = source.options.prefix_length, source.model.masks_prefixes, source.model.shifts_prefixes
    if not masks and not shifts:
        return {}
    attention = source.attention
    if attention == "sdpa-padded" and source.backbone.encoder_decoder:
        attention = "sdpa"
    source.notes.append(ATTENTION[attention, masks])
    if attention == "sdpa-padded":
        for parameters in pairs.values():
            parameters["prefix_gate"] = torch.full((length,), 0.0 if masks else SHIFTED)
        return {"gate": True}
    return {"top_left": masks and attention == "sdpa"}


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
    configured = {"encoder_prefix": options.encoder_prefix, "cross_prefix": options.cross_prefix, "self_prefix": True}
    places = {place.removeprefix(f"{backbone.architecture}_") for place in pools}
    for place, active in configured.items():
        if active != (place in places):
            state = "is missing" if active else "is there"
            raise contradiction(tensors.path, place, "on" if active else "off", f"prefix_tunings.*.{place}", state)


def _table(options: PrefixOptions, pool: dict[str, list[str]], tensors: ForeignTensors, width: int) -> Tensor:
    """Take the keys and values (L, width); a reparametrization network is evaluated once."""
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
    hidden = ACTIVATIONS[our_name(options.non_linearity, "the prefix")](functional.linear(table, *parts[:2]))
    return functional.linear(hidden, *parts[2:])


def _take(pool: dict[str, list[str]], part: str, tensors: ForeignTensors) -> Tensor:
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
    tensor: Tensor,
    shape: tuple[int, ...],
    configured: str,
) -> None:
    """Raise :class:`UsageError` for a tensor whose shape contradicts configuration or backbone."""
    if tuple(tensor.shape) != shape or len(shape) > 2:
        option, _, value = configured.partition(" ")
        state = f"has the shape {tuple(tensor.shape)}, where {shape} is expected"
        raise contradiction(tensors.path, option, value, pool[part][0], state)


def to_adapterhub(options: Mapping[str, Any], target: AdapterHubTarget) -> AdapterHubMethod:
    """Write a prefix; raise :class:`UsageError` for a prefix without an equal in AdapterHub."""
    backbone, model = target.backbone, target.model
    constants = 1.0, *([0.0] if model.masks_prefixes else []), *([SHIFTED] if model.shifts_prefixes else [])
    if _is_gated(options, target.tensors, constants):
        raise refuse("a gated prefix", "AdapterHub's gates depend on the text (train with --no-gate)")
    if options["move"]:
        raise refuse("a prefix that moves positions", "AdapterHub's leaves them where they are")
    if hasattr(config_of(backbone), RELATIVE):
        raise refuse("a prefix in a model with relative positions", "there AdapterHub's moves the text's positions")
    placed: dict[str, list[Port]] = {}
    for port in target.ports:
        placed.setdefault(model.prefix_place(port), []).append(port)
    if backbone.encoder_decoder and "self_prefix" not in placed:
        raise refuse("this prefix", "AdapterHub's always acts in the decoder's own attention, too")
    kinds = {(port.stack, port.role) for port in target.ports}
    candidates = [port for port in backbone.ports if port.kind == "attention" and (port.stack, port.role) in kinds]
    config = {
        "architecture": "prefix_tuning",
        "flat": True,
        "prefix_length": options["length"],
        "encoder_prefix": "encoder_prefix" in placed or not backbone.encoder_decoder,
        "cross_prefix": "cross_prefix" in placed or not backbone.encoder_decoder,
        "leave_out": left_out(target, target.ports, candidates, "this prefix"),
        "non_linearity": "tanh",
        "bottleneck_size": 512,
        "dropout": 0.0,
        "use_gating": options["text_gates"] > 0,
        "shared_gating": options["text_gates"] < 2,
    }
    front = f"prefix_tuning.prefix_tunings.{target.name}"
    tables = {place: _table_of(ports, target.tensors).flatten() for place, ports in placed.items()}
    stored = {f"{front}.{place}.control_trans": table for place, table in tables.items()}
    if options["text_gates"]:
        for port in target.ports:
            path = f"{port.module}.prefix_tuning.prefix_gates.{target.name}"
            stored |= {f"{path}.{part}": target.tensors[port.name][f"gate_{part}"] for part in ("weight", "bias")}
    return AdapterHubMethod(config, stored)
