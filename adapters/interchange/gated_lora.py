"""LoRA with gates in the format of AdapterHub, which multiplies its update by the gate in place of alpha / r."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adaptdock.adapters.interchange.low_rank import adapterhub_factors
from adaptdock.plugins.contracts import Port
from adaptdock.plugins.toolkit.interchange import adapterhub_lora as adapterhub
from adaptdock.plugins.toolkit.interchange.adapterhub import (
    GATED,
    AdapterHubMethod,
    AdapterHubSource,
    AdapterHubTarget,
)
from adaptdock.plugins.toolkit.interchange.ports import port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, Named, refuse


def from_adapterhub(source: AdapterHubSource[adapterhub.LoraOptions]) -> MethodWeights:
    """Read LoRA with gates; a fused map has one for each adapted third of it."""
    options = source.options
    if options.vera:
        raise refuse("VeRA with gates", "its factors are multiplied out, and become LoRA without gates")
    if options.use_dora:
        raise refuse("DoRA with gates", "the lengths of its rows are those of an update that is always the same")
    placed = adapterhub.read_places(source)
    counts = {len(options.thirds) if adapterhub.is_fused(port) else 1 for port in placed}
    if len(counts) > 1:
        raise refuse("LoRA with gates at fused and at other maps", "all layers have the same number of gates here")
    (count,) = counts
    tensors: dict[str, Named] = {}
    for port, group in placed.items():
        down, up = adapterhub_factors(options, port, group, source.tensors.path)
        reason = "use_gating is on"
        tensors[port.name] = {
            "lora_a": down,
            "lora_b": up,
            "gate_weight": group.taken("gate.weight", (count, port.inputs), reason),
            "gate_bias": group.taken("gate.bias", (count,), reason),
        }
    source.notes.append(GATED)
    rank = options.r * count
    values = {"rank": rank, "alpha": float(rank), "gates": count, "dropout": options.dropout}
    return MethodWeights(values | port_selection(source.backbone.ports, list(placed)), tensors)


def to_adapterhub(options: Mapping[str, Any], target: AdapterHubTarget) -> AdapterHubMethod:
    """Write LoRA with gates; raise :class:`UsageError` for gates that divide the ranks in another way."""
    rank, count, stored = options["rank"], options["gates"], dict[str, Tensor]()
    scaling = options["alpha"] / rank
    for port in target.ports:
        weights, path = target.tensors[port.name], f"{port.module}.loras.{target.name}"
        up, gates = weights["lora_b"].float() * scaling, [weights["gate_weight"], weights["gate_bias"]]
        if adapterhub.is_fused(port):
            owners = _owners(port, up, count)
            stored[f"{path}.lora_A"] = torch.cat([weights["lora_a"]] * 3)
            gates = [tensor[owners] for tensor in gates]
        elif count == 1:
            stored[f"{path}.lora_A"] = weights["lora_a"]
        else:
            raise refuse(f"LoRA with {count} gates at {port.name}", "AdapterHub's has one gate at a map")
        stored |= {f"{path}.lora_B": up, f"{path}.gate.weight": gates[0], f"{path}.gate.bias": gates[1]}
    config = {"architecture": "lora", "composition_mode": "add", "r": rank, "alpha": rank, "use_dora": False}
    config |= {"dropout": options["dropout"], "init_weights": "lora", "use_gating": True}
    return AdapterHubMethod(config | adapterhub.write_places(target, target.ports), stored)


def _owners(port: Port, up: Tensor, count: int) -> list[int]:
    """Return the only gate that acts on each third of a fused map; raise :class:`UsageError` if several do."""
    owners = []
    for third in up.chunk(3):
        acting = [number for number, part in enumerate(third.chunk(count, dim=1)) if part.any()]
        if len(acting) > 1:
            raise refuse(f"LoRA with {count} gates at {port.name}", "several gates act on the same outputs")
        owners.append(acting[0] if acting else 0)
    return owners
