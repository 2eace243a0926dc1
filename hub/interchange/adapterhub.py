"""Import from AdapterHub (library ``adapters``): bottlenecks, prefixes, LoRA, DoRA and IA3, with their heads.

A folder has ``adapter_config.json`` and ``pytorch_adapter.bin`` (or ``adapter.safetensors``), and for a head
``head_config.json`` and ``pytorch_model_head.bin`` (or ``model_head.safetensors``). The formulas are those of adapters
1.3 (``methods/*.py``, ``heads/*.py``). An option that would compute something else here is refused by name.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.errors import BackboneError
from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.adapterhub_config import (
    BottleneckOptions,
    FolderOptions,
    LoraOptions,
    PrefixOptions,
    read_methods,
)
from adaptdock.hub.interchange.adapterhub_heads import read_head
from adaptdock.hub.interchange.adapterhub_places import (
    FLAGS,
    OTHERWISE,
    bottleneck_ports,
    check_places,
    counted,
    lora_ports,
)
from adaptdock.hub.interchange.adapterhub_prefix import read_prefix
from adaptdock.hub.interchange.incoming import (
    Finder,
    Imported,
    Part,
    base_note,
    build,
    port_selection,
    read_json,
    unknown_notes,
)
from adaptdock.hub.interchange.incoming_tensors import (
    ForeignTensors,
    ModuleTensors,
    Named,
    contradiction,
    read_tensors,
    refuse,
)
from adaptdock.plugins.contracts import Backbone, Port, Ports

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", ("adapter.safetensors", "pytorch_adapter.bin")
ENDS = ("attention_output", "cross_attention_output", "ffn_down")
OWNERS = {
    "attention_adapters": "attention_output",
    "cross_attention_adapters": "cross_attention_output",
    "output_adapters": "ffn_down",
}
"""Names of modules with bottlenecks beside a block; in other models the block itself has the bottleneck."""
LEARNED = ("learned", "channel")
FAULTY = (1, 1)
"""First version of the library that multiplies by alpha / r; earlier versions left the scale at 1."""


def is_adapterhub(folder: Path) -> bool:
    """Tell whether a folder has an adapter of AdapterHub."""
    return (folder / CONFIG).is_file() and "config" in read_json(folder / CONFIG)


def read_adapterhub(folder: Path, backbone: Backbone, name: str, labels: tuple[str, ...] = ()) -> Imported:
    """Read an adapter of AdapterHub for its backbone; see :func:`read_peft`."""
    path = folder / CONFIG
    about = FolderOptions.parse(read_json(path), path)
    if about.model_type not in (None, backbone.architecture):
        raise refuse(f"an adapter for {about.model_type}", f"the backbone is {backbone.architecture!r}")
    if about.hidden_size not in (None, backbone.width):
        raise refuse("this adapter", f"its hidden_size is {about.hidden_size}, the backbone's {backbone.width}")
    methods = read_methods(about, path)
    tensors = read_tensors(folder, WEIGHTS)
    notes = base_note(about.model_name, backbone)
    parts: list[Part] = []
    for options in methods:
        parts.append(_part(options, about, tensors, backbone, notes))
        notes += unknown_notes(options.unknown, "AdapterHub")
    notes += unknown_notes(about.unknown, "AdapterHub")
    if tensors.unused:
        raise refuse(f"the tensor {next(iter(tensors.unused))!r}", "no option in the configuration explains it")
    head, head_notes = read_head(folder, backbone, labels)
    notes += head_notes
    masked = backbone.causal or backbone.encoder_decoder or backbone.architecture == "distilbert"
    if masked and any(part.method == "prefix" for part in parts):
        notes.append(
            "the prefix acts as with AdapterHub's eager attention. Under sdpa, the library's default, it masks the "
            "prefix otherwise: an adapter that was trained so has other logits there"
        )
    if backbone.architecture in OTHERWISE:
        notes.append(
            f"the library's own {backbone.architecture} has other hidden states than that of transformers, with no "
            f"adapter at all: logits differ from the library's by as much"
        )
    origin = {
        "library": "adapters",
        "version": about.version,
        "class": about.model_class,
        "base_model": about.model_name,
    }
    file = build(backbone, name, parts, head, {key: value for key, value in origin.items() if value})
    return Imported(file, notes)


def _part(options: object, about: FolderOptions, tensors: ForeignTensors, backbone: Backbone, notes: list[str]) -> Part:
    if isinstance(options, BottleneckOptions):
        return _bottleneck(options, about, tensors, backbone)
    if isinstance(options, PrefixOptions):
        options.check_carried("a prefix")
        return read_prefix(options, about.name, tensors, backbone)
    assert isinstance(options, LoraOptions)
    return _lora(options, about, tensors, backbone, notes)


# -------------------------------------------------------------------------------------- bottlenecks


def _bottleneck(options: BottleneckOptions, about: FolderOptions, tensors: ForeignTensors, backbone: Backbone) -> Part:
    options.check_carried("a bottleneck")
    placed: dict[Port, ModuleTensors] = {}
    for owner, group in _owned(tensors, "adapters", about.name).items():
        port = _end(owner, backbone)
        if port in placed:
            raise refuse(f"the bottlenecks at {owner} and {placed[port].module}", "they end the same block")
        placed[port] = group
    if not placed:
        raise refuse("this bottleneck", "it has no tensors")
    modules = {port: group.module for port, group in placed.items()}
    check_places(tensors.path, bottleneck_ports(options, backbone), modules, FLAGS, options, backbone)
    maps = {port.name: _maps(options, port, group, backbone, tensors.path) for port, group in placed.items()}
    width = max(named_tensors["down"].shape[0] for named_tensors in maps.values())
    maps = {port: _widened(named_tensors, width) for port, named_tensors in maps.items()}
    ports = list(placed)
    where = port_selection(backbone.ports, ports)
    values = {"width": width, **_wiring(options, backbone, ports[0]), **where, **_factor(options, maps)}
    return Part("bottleneck", values, maps)


def _owned(tensors: ForeignTensors, kind: str, name: str | None) -> dict[str, ModuleTensors]:
    """Return the tensors named ``<module>.<kind>.<name>.*``, by module."""
    pattern = re.compile(rf"(?P<module>.+?)\.{kind}\.(?P<adapter>[^.]+)\.(?P<part>.+)")
    for tensor in tensors.unused:
        match = pattern.fullmatch(tensor)
        if match is not None and name is not None and match["adapter"] != name:
            raise contradiction(tensors.path, "name", repr(name), tensor, f"is of an adapter {match['adapter']!r}")
    return tensors.modules(pattern)


def _end(owner: str, backbone: Backbone) -> Port:
    """Return the last port of the block with a bottleneck."""
    path, _, leaf = owner.rpartition(".")
    roles = (OWNERS[leaf],) if leaf in OWNERS else ENDS
    inside = path if leaf in OWNERS else owner
    parts = inside.split(".")
    for start in range(len(parts)):
        front = ".".join(parts[start:]) + "."
        candidates = [
            port
            for port in backbone.ports
            if port.kind == "linear" and port.role in roles and port.module.startswith(front)
        ]
        if len(candidates) > 1 and leaf not in OWNERS:  # BERT: the output of the layer, not of its attention
            candidates = [port for port in candidates if port.module.count(".") == front.count(".")]
        if len(candidates) == 1:
            return candidates[0]
    raise refuse(f"the bottleneck at {owner}", f"{backbone.architecture!r} has no block there that an adapter can end")


def _maps(options: BottleneckOptions, port: Port, group: ModuleTensors, backbone: Backbone, path: Path) -> Named:
    """Take the two maps of a bottleneck, (width, W) and (W, width); a learned scale is multiplied into the second."""
    shape, layer = group.shape("adapter_down.0.weight"), counted(port, backbone)
    width = options.width(layer, backbone.width)
    if width is None:
        raise refuse(
            f"the bottleneck at {group.module}", f"its reduction_factor has no value for layer {layer} and no 'default'"
        )
    if shape != (width, port.outputs):
        raise contradiction(
            path,
            "reduction_factor",
            f"{options.reduction_factor} (a width of {width} in layer {layer})",
            group.name("adapter_down.0.weight"),
            f"has the shape {shape}, where ({width}, {port.outputs}) is expected",
        )
    reason = f"the bottleneck is {width} wide, the backbone {port.outputs}"
    maps = {
        "down": group.take("adapter_down.0.weight"),
        "down_bias": group.taken("adapter_down.0.bias", (width,), reason),
        "up": group.taken("adapter_up.weight", (port.outputs, width), reason),
        "up_bias": group.taken("adapter_up.bias", (port.outputs,), reason),
    }
    if options.scaling in LEARNED:  # one factor in all, or one per channel
        count = 1 if options.scaling == "learned" else port.outputs
        factors = group.taken("scaling", (count,), f"scaling is {options.scaling!r}")
        maps["up"] = maps["up"].float() * factors.float().reshape(-1, 1)
        maps["up_bias"] = maps["up_bias"].float() * factors.float()
    elif "scaling" in group:
        raise contradiction(path, "scaling", options.scaling, group.name("scaling"), "holds a learned one")
    return maps


def _widened(maps: Named, width: int) -> Named:
    from torch.nn import functional

    missing = width - maps["down"].shape[0]
    if not missing:
        return maps
    return {
        "down": functional.pad(maps["down"], (0, 0, 0, missing)),
        "down_bias": functional.pad(maps["down_bias"], (0, missing)),
        "up": functional.pad(maps["up"], (0, missing)),
        "up_bias": maps["up_bias"],
    }


def _factor(options: BottleneckOptions, maps: dict[str, Named]) -> dict[str, Any]:
    """Return the scale. A scale that is not positive is multiplied into the weights."""
    scale = options.scaling
    if isinstance(scale, str):
        return {"scale": 1.0}
    if scale > 0:
        return {"scale": float(scale)}
    for port_maps in maps.values():
        port_maps.update({name: port_maps[name] * float(scale) for name in ("up", "up_bias")})
    return {"scale": 1.0}


def _wiring(options: BottleneckOptions, backbone: Backbone, port: Port) -> dict[str, Any]:
    """Return options for the input and the addition of a bottleneck (``Adapter.pre_forward`` and ``post_forward``)."""
    values = {
        "activation": head_layouts.function(options.non_linearity, "the bottleneck"),
        "parallel": options.is_parallel,
        "dropout": options.dropout,
    }
    after, before = options.original_ln_after, options.original_ln_before
    if options.is_parallel:
        if not after:
            raise refuse("a parallel bottleneck with original_ln_after off", "the backbone always adds and norms")
        return {**values, "stream": True}
    residual = options.residual_before_ln
    normed = _follows(backbone, port) if before or not after else False
    onto = "output" if residual is True or not before else ("sum" if residual == "post_add" or not normed else "norm")
    if residual == "post_add" and not (before and normed):
        raise refuse(
            "residual_before_ln post_add", "there is no layer norm before the bottleneck, so it has no meaning"
        )
    if not after:
        if normed or onto != "sum":
            raise refuse("a bottleneck with original_ln_after off", "the backbone always adds and norms")
        onto = "output"  # the backbone itself adds the sum
    return {**values, "stream": before, "onto": onto}


def _follows(backbone: Backbone, port: Port) -> bool:
    """Tell whether a layer norm reads the residual sum."""
    try:
        return backbone.ports.residual(port).norm is not None
    except BackboneError as error:
        raise refuse("a bottleneck with original_ln_before", str(error)) from None


# --------------------------------------------------------------------------------------------- lora


def _lora(
    options: LoraOptions, about: FolderOptions, tensors: ForeignTensors, backbone: Backbone, notes: list[str]
) -> Part:
    options.check_carried("LoRA")
    if options.vera_d is not None or options.vera_b is not None:
        raise refuse("VeRA", "adaptdock has no such method")
    finder = Finder(backbone.ports, "LoRA")
    placed: dict[Port, ModuleTensors] = {}
    for module, group in _owned(tensors, "loras", about.name).items():
        port = finder.port(module)
        if port is None:
            raise refuse(f"LoRA at {module}", f"{backbone.architecture!r} has no port there that an adapter can act at")
        placed[port] = group
    if not placed:
        raise refuse("this LoRA", "it has no tensors")
    modules = {port: group.module for port, group in placed.items()}
    ports, flags = lora_ports(options, backbone)
    check_places(tensors.path, ports, modules, flags, options, backbone)
    alpha = _alpha(options, about, notes)
    if options.composition_mode == "scale":
        return _ia3(options, alpha, placed, backbone, tensors.path)
    factors = {port: _factors(options, port, group, tensors.path) for port, group in placed.items()}
    rank = max(down.shape[0] for down, _ in factors.values())
    scale = alpha / options.r
    positive = scale if scale > 0 else 1.0  # our scale must be positive: B gets the sign
    pairs = {}
    for port, (down, up) in factors.items():
        pair = _ranked(down, up if scale > 0 else up.float() * scale, rank)
        if options.use_dora:
            pair |= _lengthened(scale, positive, port, placed[port], pair, backbone)
        pairs[port.name] = pair
    dora = bool(options.use_dora)
    values = {"rank": rank, "alpha": positive * rank, "dropout": options.dropout, "bias": dora}
    return Part("dora" if dora else "lora", values | port_selection(backbone.ports, list(placed)), pairs)


def _alpha(options: LoraOptions, about: FolderOptions, notes: list[str]) -> float:
    """Return alpha as the library uses it: before version 1.1 LoRA was trained as if alpha were the rank."""
    match = re.match(r"adapters\.(\d{1,4})\.(\d{1,4})", about.version or "")
    faulty = match is not None and (int(match[1]), int(match[2])) < FAULTY
    if not faulty or options.alpha == options.r or about.config.get("architecture") != "lora":
        return options.alpha
    notes.append(
        f"the adapter was saved by {about.version}, which trained LoRA with a scale of 1 whatever alpha is: as the "
        f"library does today, alpha is taken to be r ({options.r}), not {options.alpha:g}"
    )
    return float(options.r)


def _factors(options: LoraOptions, port: Port, group: ModuleTensors, path: Path) -> "tuple[Tensor, Tensor]":
    """Return A and B. A fused QKV map has separate factors for query, key and value, side by side."""
    import torch

    if not options.use_dora and "m.weight" in group:
        raise contradiction(path, "use_dora", "false", group.name("m.weight"), "is there")
    rank, fused = options.r, port.role == Ports.FUSED["query"]
    thirds = _thirds(options) if fused else []
    third = port.outputs // 3
    down, up = group.shape("lora_A"), group.shape("lora_B")
    expected = (rank * len(thirds), port.inputs) if fused else (rank, port.inputs)
    outputs = third * len(thirds) if fused else port.outputs
    if down != expected or up != (outputs, rank):
        if len(down) == len(up) == 2 and (up[0], down[1]) == (outputs, port.inputs):
            raise contradiction(path, "r", rank, group.name("lora_B"), f"has the rank {up[1]}")
        raise refuse(
            f"LoRA at {group.module}",
            f"its factors are {up} and {down}; the configuration and the backbone's map ({port.outputs}, "
            f"{port.inputs}) want {(outputs, rank)} and {expected}",
        )
    if not fused:
        return group.take("lora_A"), group.take("lora_B")
    stored = group.take("lora_B")
    whole = torch.zeros(port.outputs, rank * len(thirds), dtype=stored.dtype)
    for number, part in enumerate(thirds):
        block = stored[number * third : (number + 1) * third]
        whole[part * third : (part + 1) * third, number * rank : (number + 1) * rank] = block
    return group.take("lora_A"), whole


def _thirds(options: LoraOptions) -> list[int]:
    """Return the indices of the adapted maps (query, key, value), by their order in a fused map."""
    return [number for number, name in enumerate("qkv") if name in options.attn_matrices]


def _ranked(down: "Tensor", up: "Tensor", rank: int) -> Named:
    from torch.nn import functional

    missing = rank - down.shape[0]
    return {"lora_a": functional.pad(down, (0, 0, 0, missing)), "lora_b": functional.pad(up, (0, missing))}


def _lengthened(
    scale: float, positive: float, port: Port, group: ModuleTensors, factors: Named, backbone: Backbone
) -> Named:
    """Return our parameters for ``m / |W + B A| * (W x + b + s B A x)``, the formula of AdapterHub.

    Our formula does not scale the frozen bias b, so its scaling becomes a change of the bias; and it divides by the
    lengths of ``W + s B A``. ``factors`` hold B with the part of the scale missing in ``positive``.
    """
    import torch

    if port.role in Ports.FUSED.values():
        raise refuse(f"DoRA at {port.module}", "AdapterHub leaves the magnitudes out where a map is fused")
    if scale == 0:
        raise refuse("DoRA with an alpha of 0", "its update is divided by the lengths of one that does not act")
    weight, bias = backbone.weight(port).float().cpu(), backbone.bias(port).float().cpu()
    scaled = positive * (factors["lora_b"].float() @ factors["lora_a"].float())
    unscaled = scaled / scale
    lengths = [torch.linalg.vector_norm(weight + product, dim=1) for product in (0.0 * scaled, unscaled, scaled)]
    magnitude = group.taken("m.weight", (port.outputs, 1), "it has one number for each output of the map")
    factor = magnitude.float().flatten() / lengths[1]
    return {"magnitude_change": factor * lengths[2] - lengths[0], "bias_change": (factor - 1) * bias}


def _ia3(
    options: LoraOptions, alpha: float, placed: Mapping[Port, ModuleTensors], backbone: Backbone, path: Path
) -> Part:
    import torch

    if options.r != 1 or options.use_dora:
        raise refuse("LoRA that scales", f"the library has it with r 1 and without DoRA; here r is {options.r}")
    tensors = {}
    for port, group in placed.items():
        thirds = _thirds(options) if port.role == Ports.FUSED["query"] else []
        third = port.outputs // 3
        extent = third * len(thirds) if thirds else port.outputs
        reason = f"the map has {extent} outputs that the configuration names"
        factor = group.taken("lora_B", (extent, 1), reason).float().flatten() * alpha
        if thirds:
            whole = torch.ones(port.outputs)
            for number, part in enumerate(thirds):
                whole[part * third : (part + 1) * third] = factor[number * third : (number + 1) * third]
            factor = whole
        tensors[port.name] = {"output_factor": factor - 1}
    return Part("ia3", {"feed_forward": False, **port_selection(backbone.ports, list(placed))}, tensors)
