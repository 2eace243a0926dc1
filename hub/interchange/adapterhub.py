"""Adapters of the library adapters (AdapterHub), read: bottlenecks, prefixes, LoRA, DoRA and IA3, with their heads.

A folder holds ``adapter_config.json`` and ``pytorch_adapter.bin`` (or ``adapter.safetensors``), and for a head
``head_config.json`` and ``pytorch_model_head.bin`` (or ``model_head.safetensors``). The formulas are those of adapters
1.3 (``methods/*.py``, ``heads/*.py``). What would act otherwise here, or cannot act, is refused by its name.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.errors import BackboneError
from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.adapterhub_heads import read_head
from adaptdock.hub.interchange.incoming import (
    Finder,
    Imported,
    Named,
    Part,
    build,
    chosen,
    read_json,
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
"""The modules that hold bottlenecks beside a block; elsewhere they lie in the block itself."""
PREFIXES = {
    "self": "attention",
    "self_prefix": "attention",
    "encoder_prefix": "attention",
    "cross_prefix": "cross_attention",
}
RENAMED = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""Functions that were called otherwise before a version was written into the configuration."""
LEARNED = ("learned", "channel")


def is_adapterhub(folder: Path) -> bool:
    """Tell whether a folder holds an adapter of AdapterHub."""
    return (folder / CONFIG).is_file() and isinstance(read_json(folder / CONFIG).get("config"), dict)


def read_adapterhub(folder: Path, backbone: Backbone, name: str, labels: tuple[str, ...] = ()) -> Imported:
    """Read an adapter of AdapterHub for the backbone that it was trained on; see :func:`read_peft`."""
    told = read_json(folder / CONFIG)
    if told.get("model_type") not in (None, backbone.architecture):
        raise refuse(f"an adapter for {told['model_type']}", f"the backbone is {backbone.architecture!r}")
    rest = read_tensors(folder, WEIGHTS)
    configs = [_current(config) if "version" not in told else config for config in _single(told["config"])]
    parts = [_part(config, rest, backbone) for config in configs]
    if rest:
        raise refuse(f"the tensor {next(iter(rest))!r}", "nothing in the configuration tells what it is for")
    head, notes = read_head(folder, backbone, labels)
    masked = backbone.causal or backbone.encoder_decoder or backbone.architecture == "distilbert"
    if masked and any(part.method == "prefix" for part in parts):
        notes.append("the prefix acts as with AdapterHub's eager attention; with sdpa its masks are wrong here")
    origin = {
        "library": "adapters",
        "version": told.get("version"),
        "class": told.get("model_class"),
        "base_model": told.get("model_name"),
    }
    made = build(backbone, name, parts, head, {key: value for key, value in origin.items() if value})
    return Imported(made, notes)


def _single(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield each method's configuration; a union has several."""
    if config.get("architecture") == "union":
        for member in config["configs"]:
            yield from _single(member)
    else:
        yield config


def _current(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an old configuration in today's words."""
    name = config.get("non_linearity")
    return {**config, "non_linearity": RENAMED.get(str(name), name)} if name is not None else config


def _part(config: Mapping[str, Any], rest: Named, backbone: Backbone) -> Part:
    kind = config.get("architecture")
    if config.get("use_gating"):
        raise refuse("gating", "its gate is a mean over all positions of a batch, padding included")
    if kind is None:
        return _bottleneck(config, rest, backbone)
    if kind == "prefix_tuning":
        return _prefix(config, rest, backbone)
    if kind == "lora":
        return _lora(config, rest, backbone)
    reasons = {
        "prompt_tuning": "its embeddings enter behind the layer norm of the embeddings, ours before it",
        "reft": "there is no such method here",
        "mtl_lora": "there is no such method here",
    }
    raise refuse(f"the architecture {kind}", reasons.get(str(kind), "it is not known here"))


# -------------------------------------------------------------------------------------- bottlenecks


def _bottleneck(config: Mapping[str, Any], rest: Named, backbone: Backbone) -> Part:
    for option, why in (
        ("phm_layer", "a compacter's maps are sums of Kronecker products, for which there is no method here"),
        ("inv_adapter", "invertible adapters act on the embeddings, for which there is no method here"),
        ("ln_before", "a layer norm of its own stands before the bottleneck"),
        ("ln_after", "a layer norm of its own stands behind the bottleneck"),
    ):
        if config.get(option):
            raise refuse(f"a bottleneck with {option}", why)
    tensors: dict[str, Named] = {}
    ports: list[Port] = []
    for owner, named in _owned(rest, "adapters", backbone).items():
        port = _end(owner, backbone)
        tensors[port.name] = _maps(port, owner, named)
        ports.append(port)
    if not tensors:
        raise refuse("this bottleneck", "it has no tensors")
    width = max(named["down"].shape[0] for named in tensors.values())
    tensors = {port: _widened(named, width) for port, named in tensors.items()}
    where = chosen(backbone.ports, ports)
    options = {"width": width, **_wiring(config, backbone, ports[0]), **where, **_factor(config, tensors)}
    return Part("bottleneck", options, tensors)


def _owned(rest: Named, kind: str, backbone: Backbone) -> dict[str, Named]:
    """Take the tensors that lie under ``<module>.<kind>.<name>.`` out of the rest, by module."""
    found: dict[str, Named] = {}
    pattern = re.compile(rf"(?P<module>.+?)\.{kind}\.[^.]+\.(?P<rest>.+)")
    for key in list(rest):
        match = pattern.fullmatch(key)
        if match is not None:
            found.setdefault(match["module"], {})[match["rest"]] = rest.pop(key)
    return found


def _end(owner: str, backbone: Backbone) -> Port:
    """Return the port that ends the block in which a bottleneck lies."""
    path, _, leaf = owner.rpartition(".")
    roles = (OWNERS[leaf],) if leaf in OWNERS else ENDS
    inside = path if leaf in OWNERS else owner
    parts = inside.split(".")
    for start in range(len(parts)):
        front = ".".join(parts[start:]) + "."
        found = [
            port
            for port in backbone.ports
            if port.kind == "linear" and port.role in roles and port.module.startswith(front)
        ]
        if len(found) > 1 and leaf not in OWNERS:  # of BERT, a layer's own output and not its attention's
            found = [port for port in found if port.module.count(".") == front.count(".")]
        if len(found) == 1:
            return found[0]
    raise refuse(f"the bottleneck at {owner}", f"{backbone.architecture!r} has no block there that an adapter can end")


def _maps(port: Port, owner: str, named: Named) -> Named:
    names = {
        "adapter_down.0.weight": "down",
        "adapter_down.0.bias": "down_bias",
        "adapter_up.weight": "up",
        "adapter_up.bias": "up_bias",
        "scaling": "scaling",
    }
    surplus = next((name for name in named if name not in names), None)
    found = {names[name]: tensor for name, tensor in named.items() if name in names}
    if surplus is not None or not {"down", "down_bias", "up", "up_bias"} <= found.keys():
        raise refuse(f"the bottleneck at {owner}", f"its tensors are {', '.join(sorted(named))}")
    if found["up"].shape[0] != port.outputs:
        raise refuse(f"the bottleneck at {owner}", f"it is {found['up'].shape[0]} wide, the backbone {port.outputs}")
    scaling = found.pop("scaling", None)
    if scaling is not None:  # learned: one factor, or one for each channel
        found["up"] = found["up"].float() * scaling.float().reshape(-1, 1)
        found["up_bias"] = found["up_bias"].float() * scaling.float().reshape(-1)
    return found


def _widened(named: Named, width: int) -> Named:
    from torch.nn import functional

    missing = width - named["down"].shape[0]
    if not missing:
        return named
    return {
        "down": functional.pad(named["down"], (0, 0, 0, missing)),
        "down_bias": functional.pad(named["down_bias"], (0, missing)),
        "up": functional.pad(named["up"], (0, missing)),
        "up_bias": named["up_bias"],
    }


def _factor(config: Mapping[str, Any], tensors: dict[str, Named]) -> dict[str, Any]:
    """Return the scale; one that is not positive goes into the weights."""
    scale = config.get("scaling", 1.0)
    if scale in LEARNED:
        return {"scale": 1.0}
    if float(scale) > 0:
        return {"scale": float(scale)}
    for named in tensors.values():
        named.update({name: named[name] * float(scale) for name in ("up", "up_bias")})
    return {"scale": 1.0}


def _wiring(config: Mapping[str, Any], backbone: Backbone, port: Port) -> dict[str, Any]:
    """Return what a bottleneck reads, and what it adds to (``Adapter.pre_forward`` and ``post_forward``)."""
    options = {
        "activation": head_layouts.function(config.get("non_linearity"), "the bottleneck"),
        "parallel": bool(config.get("is_parallel")),
        "dropout": float(config.get("dropout", 0)),
    }
    after, before = bool(config.get("original_ln_after", True)), bool(config.get("original_ln_before"))
    if options["parallel"]:
        if not after:
            raise refuse("a parallel bottleneck with original_ln_after off", "the backbone always adds and norms")
        return {**options, "stream": True}
    residual = config.get("residual_before_ln", True)
    normed = _follows(backbone, port) if before or not after else False
    onto = "output" if residual is True or not before else ("sum" if residual == "post_add" or not normed else "norm")
    if residual == "post_add" and not (before and normed):
        raise refuse(
            "residual_before_ln post_add", "there is no layer norm before the bottleneck, so it has no meaning"
        )
    if not after:
        if normed or onto != "sum":
            raise refuse("a bottleneck with original_ln_after off", "the backbone always adds and norms")
        onto = "output"  # the sum is there already, and the backbone adds it
    return {**options, "stream": before, "onto": onto}


def _follows(backbone: Backbone, port: Port) -> bool:
    """Tell whether a layer norm takes the sum in."""
    try:
        return backbone.ports.residual(port).norm is not None
    except BackboneError as error:
        raise refuse("a bottleneck with original_ln_before", str(error)) from None


# ----------------------------------------------------------------------------------------- prefixes


def _prefix(config: Mapping[str, Any], rest: Named, backbone: Backbone) -> Part:
    import torch

    if hasattr(head_layouts.config_of(backbone), "relative_attention_num_buckets"):
        raise refuse("prefix tuning of a model with relative positions", "there the prefix moves the text's positions")
    pools: dict[str, Named] = {}
    for key in list(rest):
        match = re.search(r"\.?prefix_tunings\.[^.]+\.(?P<place>\w+)\.(?P<rest>(?:wte|control_trans).*)", key)
        if match is not None:  # each layer lists the pool that all of them share
            pools.setdefault(match["place"], {})[match["rest"]] = rest.pop(key)
    left, tensors, length = set(config.get("leave_out") or ()), {}, 0
    for place, named in pools.items():
        ports = [port for port in _attentions(place, backbone) if _counted(port, backbone) not in left]
        table = _table(config, named)  # (L, layers * 2 * H * D)
        length, heads, width = table.shape[0], ports[0].heads, ports[0].key_width
        if table.shape[1] != len(ports) * 2 * heads * width:
            raise refuse(
                f"the prefix {place}", f"it is {table.shape[1]} wide, and not that of {len(ports)} layers here"
            )
        split = table.view(length, len(ports), 2, heads, width).permute(1, 2, 3, 0, 4)
        for number, port in enumerate(ports):
            tensors[port.name] = {"prefix_key": split[number, 0], "prefix_value": split[number, 1]}
    if not tensors:
        raise refuse("this prefix", "it has no tensors")
    assert isinstance(table, torch.Tensor)
    return Part("prefix", {"length": length, "gate": False, "roles": tuple(tensors)}, tensors)


def _attentions(place: str, backbone: Backbone) -> list[Port]:
    """Return the attention ports of a place, in the order in which their prefixes are stored."""
    role = PREFIXES.get(place.removeprefix(f"{backbone.architecture}_"))
    if role is None:
        raise refuse(f"the prefix {place}", "this place of a model is not known here")
    stack = "" if not backbone.encoder_decoder else ("encoder" if place.endswith("encoder_prefix") else "decoder")
    there = [port for port in backbone.ports if port.kind == "attention" and port.role == role and port.stack == stack]
    if not there:
        raise refuse(f"the prefix {place}", f"{backbone.architecture!r} has no attention there that takes one")
    return sorted(there, key=lambda port: port.layer)


def _counted(port: Port, backbone: Backbone) -> int:
    """Return the number of a port's layer as AdapterHub counts: those of the decoder after the encoder's."""
    if port.stack != "decoder":
        return port.layer
    return port.layer + 1 + max(other.layer for other in backbone.ports if other.stack == "encoder")


def _table(config: Mapping[str, Any], named: Named) -> "Tensor":
    """Return the keys and values, one row a position; a network is computed once and for all."""
    from torch.nn import functional

    from adaptdock.plugins.toolkit.activations import ACTIVATIONS

    if "control_trans" in named:
        flat: Tensor = named["control_trans"]
        return flat.view(int(config["prefix_length"]), -1)
    inner = functional.linear(named["wte.weight"], named["control_trans.0.weight"], named["control_trans.0.bias"])
    inner = ACTIVATIONS[head_layouts.function(config.get("non_linearity"), "the prefix")](inner)
    return functional.linear(inner, named["control_trans.2.weight"], named["control_trans.2.bias"])


# --------------------------------------------------------------------------------------------- lora


def _lora(config: Mapping[str, Any], rest: Named, backbone: Backbone) -> Part:
    if config.get("vera_d") is not None or config.get("vera_b") is not None:
        raise refuse("VeRA", "there is no such method here")
    finder = Finder(backbone.ports, "LoRA")
    placed: dict[Port, Named] = {}
    for module, named in _owned(rest, "loras", backbone).items():
        port = finder.port(module)
        if port is None:
            raise refuse(f"LoRA at {module}", f"{backbone.architecture!r} has no port there that an adapter can act at")
        placed[port] = named
    if not placed:
        raise refuse("this LoRA", "it has no tensors")
    if config.get("composition_mode") == "scale":
        return _ia3(config, placed, backbone)
    factors = {port: _factors(config, port, named) for port, named in placed.items()}
    rank = max(down.shape[0] for down, _ in factors.values())
    scale = float(config["alpha"]) / float(config["r"])
    dora = bool(config.get("use_dora"))
    tensors = {}
    for port, (down, up) in factors.items():
        own = _ranked(down, up, rank)
        if dora:
            own |= _lengthened(scale, port, placed[port], own, backbone)
        tensors[port.name] = own
    options = {"rank": rank, "alpha": scale * rank, "dropout": float(config.get("dropout", 0)), "bias": dora}
    return Part("dora" if dora else "lora", options | chosen(backbone.ports, list(placed)), tensors)


def _factors(config: Mapping[str, Any], port: Port, named: Named) -> "tuple[Tensor, Tensor]":
    """Return A and B; of a fused map each of query, key and value has factors of its own, side by side."""
    import torch

    down, up = named["lora_A"], named["lora_B"]
    if down.shape[-1] != port.inputs:
        raise refuse(f"LoRA at {port.module}", f"it reads {down.shape[-1]} numbers, the backbone's map {port.inputs}")
    if up.shape[0] == port.outputs and down.shape[0] == up.shape[1]:
        return down, up
    rank, third = up.shape[1], port.outputs // 3
    parts = [number for number, name in enumerate("qkv") if name in config["attn_matrices"]]
    whole = torch.zeros(port.outputs, rank * len(parts), dtype=up.dtype)
    if up.shape[0] != third * len(parts) or down.shape[0] != rank * len(parts):
        raise refuse(f"LoRA at {port.module}", f"its factors are {tuple(up.shape)} and {tuple(down.shape)}")
    for number, part in enumerate(parts):
        block = up[number * third : (number + 1) * third]
        whole[part * third : (part + 1) * third, number * rank : (number + 1) * rank] = block
    return down, whole


def _ranked(down: "Tensor", up: "Tensor", rank: int) -> Named:
    from torch.nn import functional

    missing = rank - down.shape[0]
    return {"lora_a": functional.pad(down, (0, 0, 0, missing)), "lora_b": functional.pad(up, (0, missing))}


def _lengthened(scale: float, port: Port, named: Named, own: Named, backbone: Backbone) -> Named:
    """Return what gives ``m / |W + B A| * (W x + b + s B A x)``, as AdapterHub computes it.

    Ours leaves the frozen bias b alone, so what is done to it is a change of the bias; and it divides by the lengths
    of ``W + s B A``.
    """
    import torch

    if port.role in Ports.FUSED.values():
        raise refuse(f"DoRA at {port.module}", "AdapterHub leaves the magnitudes out where a map is fused")
    weight, bias = backbone.weight(port).float().cpu(), backbone.bias(port).float().cpu()
    product = own["lora_b"].float() @ own["lora_a"].float()
    lengths = [torch.linalg.vector_norm(weight + factor * product, dim=1) for factor in (0.0, 1.0, scale)]
    factor = named["m.weight"].float().flatten() / lengths[1]
    return {"magnitude_change": factor * lengths[2] - lengths[0], "bias_change": (factor - 1) * bias}


def _ia3(config: Mapping[str, Any], placed: Mapping[Port, Named], backbone: Backbone) -> Part:
    import torch

    tensors = {}
    for port, named in placed.items():
        factor = named["lora_B"].float().flatten() * float(config.get("alpha", 1))
        if factor.numel() != port.outputs:
            third = port.outputs // 3
            parts = [number for number, name in enumerate("qkv") if name in config["attn_matrices"]]
            if factor.numel() != third * len(parts):
                raise refuse(f"IA3 at {port.module}", f"it has {factor.numel()} factors for {port.outputs} outputs")
            whole = torch.ones(port.outputs)
            for number, part in enumerate(parts):
                whole[part * third : (part + 1) * third] = factor[number * third : (number + 1) * third]
            factor = whole
        tensors[port.name] = {"output_factor": factor - 1}
    options = {"feed_forward": False, **chosen(backbone.ports, list(placed))}
    return Part("ia3", options, tensors)
