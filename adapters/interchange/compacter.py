"""Compacters in the format of AdapterHub (``PHMLayer`` in ``adapters/methods/modeling.py``)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.adapters.interchange.bottleneck import Source, configured_width, first_layer
from adaptdock.adapters.interchange.bottleneck import from_adapterhub as read_bottlenecks
from adaptdock.adapters.interchange.bottleneck import to_adapterhub as write_bottlenecks
from adaptdock.plugins.contracts import Port
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubTarget, whole_model
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, ModuleTensors, Named, contradiction, refuse

LAYERS = {"down": "adapter_down.0", "up": "adapter_up"}
"""Our names of the two layers -> those of the library."""
PARTS = {
    f"{ours}_{part}": f"{theirs}.{name}"
    for ours, theirs in LAYERS.items()
    for part, name in (("rule", "phm_rule"), ("left", "W_left"), ("right", "W_right"), ("bias", "b"))
}
RULE, SHARED = "phm_rule", "shared_parameters"


def from_adapterhub(source: Source) -> MethodWeights:
    """Read compacters. A shared rule is copied to each place, and a factorised rule multiplied out.

    A map that is not factorised becomes the product of itself and the identity, so its rank is its smaller size.
    Raises :class:`UsageError` for an option that cannot be carried over.
    """
    options = source.options
    if options.shared_maps:
        raise refuse("a compacter with shared_W_phm", "all places share their maps, and adaptdock stores each place")
    if options.scaling == "channel":
        raise refuse("a compacter with scaling 'channel'", "factors per channel are no Kronecker products")
    shared = _shared_rule(source) if options.shared_phm_rule else None

    def read(source: Source, port: Port, group: ModuleTensors) -> Named:
        width = configured_width(source, port, group)
        return _layer(source, group, "down", shared, port.outputs, width) | _scaled(
            source, group, _layer(source, group, "up", shared, width, port.outputs)
        )

    weights = read_bottlenecks(source, read, _equally_large)
    rank = next(iter(weights.tensors.values()))["down_left"].shape[2]
    return MethodWeights({**weights.options, "dimension": options.phm_dim, "rank": rank}, weights.tensors)


def _shared_rule(source: Source) -> Tensor:
    """Take the rule of all places, (n, n, n)."""
    group = whole_model(source, SHARED)
    if group is None:
        raise contradiction(source.tensors.path, "shared_phm_rule", True, RULE, "is missing")
    return _rule(source, group, RULE)


def _rule(source: Source, group: ModuleTensors, stem: str) -> Tensor:
    size, reason = source.options.phm_dim, f"phm_dim is {source.options.phm_dim}"
    if not source.options.factorized_phm_rule:
        return group.taken(stem, (size, size, size), reason)
    left = group.taken(f"{stem}_left", (size, size, 1), reason)
    return left.float() @ group.taken(f"{stem}_right", (size, 1, size), reason).float()


def _layer(source: Source, group: ModuleTensors, name: str, shared: Tensor | None, inputs: int, outputs: int) -> Named:
    """Take a layer: its rule, the factors (n, inputs / n, rank) and (n, rank, outputs / n) of its maps, its bias."""
    options, size = source.options, source.options.phm_dim
    front = LAYERS[name] if name == "up" else first_layer(options.ln_before)
    if inputs % size or outputs % size:
        raise contradiction(
            source.tensors.path, "phm_dim", size, group.name(f"{front}.b"), f"is of a map {inputs} -> {outputs}"
        )
    reason = f"the map {inputs} -> {outputs} has phm_dim {size}"
    if options.factorized_maps:
        shapes = (size, inputs // size, options.phm_rank), (size, options.phm_rank, outputs // size)
        left, right = (
            group.taken(f"{front}.W_{side}", shape, f"{reason} and phm_rank {options.phm_rank}")
            for side, shape in zip(("left", "right"), shapes, strict=True)
        )
    else:
        left, right = _factors(group.taken(f"{front}.W", (size, inputs // size, outputs // size), reason))
    if options.phm_bias:
        bias = group.taken(f"{front}.b", (outputs,), reason)
    elif f"{front}.b" in group:
        raise contradiction(source.tensors.path, "phm_bias", False, group.name(f"{front}.b"), "holds a bias")
    else:
        bias = left.new_zeros(outputs)
    rule = _rule(source, group, f"{front}.{RULE}") if shared is None else shared
    return {f"{name}_rule": rule, f"{name}_left": left, f"{name}_right": right, f"{name}_bias": bias}


def _factors(maps: Tensor) -> tuple[Tensor, Tensor]:
    identity = torch.eye(min(maps.shape[1:]), dtype=maps.dtype).expand(len(maps), -1, -1).contiguous()
    return (identity, maps) if maps.shape[1] < maps.shape[2] else (maps, identity)


def _scaled(source: Source, group: ModuleTensors, layer: Named) -> Named:
    """Return the second layer, multiplied by a learned scale."""
    if source.options.scaling == "learned":
        factor = group.taken("scaling", (1,), "scaling is 'learned'").float()
        return layer | {name: layer[name].float() * factor for name in ("up_right", "up_bias")}
    if "scaling" in group:
        raise contradiction(
            source.tensors.path, "scaling", source.options.scaling, group.name("scaling"), "holds a learned one"
        )
    return layer


def _equally_large(maps: dict[str, Named]) -> tuple[int, dict[str, Named]]:
    """Pad the maps to one width and one rank, with zeros at the end of each of the n parts of the width."""
    size = next(iter(maps.values()))["down_rule"].shape[0]
    narrow = max(port_maps["down_right"].shape[2] for port_maps in maps.values())
    rank = max(port_maps[f"{name}_left"].shape[2] for port_maps in maps.values() for name in LAYERS)
    padded = {}
    for port, port_maps in maps.items():
        missing = narrow - port_maps["down_right"].shape[2]
        ranks = {name: rank - port_maps[f"{name}_left"].shape[2] for name in LAYERS}
        bias = functional.pad(port_maps["down_bias"].reshape(size, -1), (0, missing)).flatten()
        padded[port] = port_maps | {
            "down_left": functional.pad(port_maps["down_left"], (0, ranks["down"])),
            "down_right": functional.pad(port_maps["down_right"], (0, missing, 0, ranks["down"])),
            "down_bias": bias,
            "up_left": functional.pad(port_maps["up_left"], (0, ranks["up"], 0, missing)),
            "up_right": functional.pad(port_maps["up_right"], (0, 0, 0, ranks["up"])),
        }
    return narrow * size, padded


def to_adapterhub(options: Mapping[str, Any], target: AdapterHubTarget) -> AdapterHubMethod:
    """Write compacters, with a shared rule if all rules are equal."""
    rules = [tensors[f"{name}_rule"] for tensors in target.tensors.values() for name in LAYERS]
    shared = all(rule.equal(rules[0]) for rule in rules)
    left_out = {f"{name}_rule" for name in LAYERS} if shared else set()
    places = {
        port: {name: tensor for name, tensor in tensors.items() if name not in left_out}
        for port, tensors in target.tensors.items()
    }
    written = write_bottlenecks(options, AdapterHubTarget(target.backbone, target.model, places, target.name), PARTS)
    config = {
        **{"phm_layer": True, "phm_dim": options["dimension"], "phm_rank": options["rank"], "phm_bias": True},
        **{"shared_phm_rule": shared, "factorized_phm_rule": False, "learn_phm": True, "phm_c_init": "normal"},
        **{"shared_W_phm": False, "factorized_phm_W": True, "hypercomplex_nonlinearity": "glorot-uniform"},
        "phm_init_range": 0.0001,
    }
    tensors = {f"{SHARED}.{target.name}.{RULE}": rules[0]} if shared else {}
    return AdapterHubMethod({**written.config, **config}, {**written.tensors, **tensors})
