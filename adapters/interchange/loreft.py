"""LoReFT in the format of AdapterHub (``adapters/methods/reft.py``): units for positions at the beginning and the end.

A unit computes ``R^T (W h + b - R h)``. R is a parametrisation of torch, which computes an orthogonal matrix from two
stored ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptdock.plugins.contracts import Port
from adaptdock.plugins.toolkit.interchange.adapterhub import (
    AdapterHubMethod,
    AdapterHubSource,
    AdapterHubTarget,
    MethodOptions,
    owned,
)
from adaptdock.plugins.toolkit.interchange.options import Count, Index
from adaptdock.plugins.toolkit.interchange.ports import ends
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, ModuleTensors, Named, contradiction, refuse

LAYER = "reft_layer"
SOURCE = "learned_source"
LIMIT = 1e-4
"""Largest error of an inner product of rows that count as orthonormal."""
ORTHOGONAL = {
    "base": "projection.parametrizations.weight.0.base",
    "free": "projection.parametrizations.weight.original",
}


class ReftOptions(MethodOptions):
    """AdapterHub's options of ReFT."""

    layers: Literal["all"] | list[Index]
    prefix_positions: Index
    suffix_positions: Index
    r: Count
    orthogonality: bool
    tied_weights: bool
    subtract_projection: bool = True
    non_linearity: str | None = None
    output_reft: bool = True


def from_adapterhub(source: AdapterHubSource[ReftOptions]) -> MethodWeights:
    """Read LoReFT at the beginning of texts; raise :class:`UsageError` for other kinds of ReFT and positions."""
    options = source.options
    _check_kind(options)
    blocks = source.backbone.ports.select("hidden", ("block",))
    numbers = {source.model.layer(port) for port in blocks}
    selected = numbers if options.layers == "all" else set(options.layers)
    for number in sorted(selected - numbers):
        raise contradiction(source.tensors.path, "layers", options.layers, f"{LAYER} of layer {number}", "is missing")
    placed: dict[Port, Named] = {}
    for module, group in owned(source, "refts").items():
        port = _port(blocks, module)
        if source.model.layer(port) not in selected:
            raise contradiction(source.tensors.path, "layers", options.layers, module, f"is in layer {port.layer}")
        placed[port] = _unit(options, group, port.outputs)
    for port in blocks:
        if port not in placed and source.model.layer(port) in selected:
            raise contradiction(source.tensors.path, "layers", options.layers, f"{port.module}.{LAYER}", "is missing")
    layers = None if selected == numbers else ",".join(map(str, sorted({port.layer for port in placed})))
    if set(source.backbone.ports.select("hidden", ("block",), layers)) != set(placed):
        raise refuse(f"ReFT in the layers {options.layers}", "adaptdock would change both halves of the model there")
    values = {"rank": options.r, "first": options.prefix_positions, "layers": layers}
    return MethodWeights(values, {port.name: tensors for port, tensors in placed.items()})


def _check_kind(options: ReftOptions) -> None:
    if not (options.orthogonality and options.subtract_projection and options.non_linearity is None):
        raise refuse("this kind of ReFT", "only LoReFT is known: orthogonality, subtract_projection, no non_linearity")
    if options.suffix_positions or not options.prefix_positions:
        raise refuse(
            f"ReFT at {options.prefix_positions} positions at the beginning and {options.suffix_positions} at the end",
            "a text is changed at its beginning alone",
        )


def _port(blocks: Sequence[Port], module: str) -> Port:
    port = next((port for port in blocks if ends(module, f"{port.module}.{LAYER}")), None)
    if port is None:
        raise refuse(f"ReFT at {module}", "it is not the output of a whole layer")
    return port


def _unit(options: ReftOptions, group: ModuleTensors, width: int) -> Named:
    """Return the tensors of the first unit; that of the end of texts, without positions, has no effect."""
    reason, shape = f"r is {options.r} and the width {width}", (options.r, width)
    units = []
    for front in ("units.0.",) if options.tied_weights else ("units.0.", "units.1."):
        base = group.taken(f"{front}{ORTHOGONAL['base']}", (width, width), reason)
        free = group.taken(f"{front}{ORTHOGONAL['free']}", shape, reason)
        weight = group.taken(f"{front}{SOURCE}.weight", shape, reason).float()
        units.append((_orthogonal(base, free), weight, group.taken(f"{front}{SOURCE}.bias", shape[:1], reason).float()))
    rotation, weight, bias = units[0]
    acting = rotation.any(1)
    rows = rotation[acting]
    if not torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=LIMIT):
        raise refuse(f"the projection of {group.module}", "its rows are not orthonormal")
    # rows of zeros, which torch computes where the diagonal of the stored matrix is below one, have no effect
    complement = torch.linalg.qr(rows.T, mode="complete").Q[:, len(rows) : options.r].T
    unused = len(complement)
    return {
        "free": torch.cat([rows, complement]),
        "change": functional.pad(weight[acting] - rows, (0, 0, 0, unused)),
        "bias": functional.pad(bias[acting], (0, unused)),
    }


@torch.no_grad()
def _orthogonal(base: Tensor, free: Tensor) -> Tensor:
    """Return the matrix (r, width) of orthonormal rows that torch computes from the stored ones."""
    layer = nn.Linear(free.shape[1], free.shape[0], bias=False)
    nn.utils.parametrizations.orthogonal(layer)
    layer.load_state_dict(
        {"parametrizations.weight.0.base": base.float(), "parametrizations.weight.original": free.float()}
    )
    return layer.weight.clone()


def to_adapterhub(
    options: Mapping[str, Any], rotations: Mapping[str, Tensor], target: AdapterHubTarget
) -> AdapterHubMethod:
    """Write LoReFT, with the matrix R of each port; raise :class:`UsageError` where it changes whole texts."""
    if options["first"] is None:
        raise refuse("loreft without the option first", "AdapterHub's counts positions from the beginning of a text")
    stored: dict[str, Tensor] = {}
    for port in target.ports:
        weights, rotation = target.tensors[port.name], rotations[port.name].float()
        front = f"{port.module}.{LAYER}.refts.{target.name}.units.0."
        layer = nn.Linear(rotation.shape[1], rotation.shape[0], bias=False)
        layer.weight = nn.Parameter(rotation)
        nn.utils.parametrizations.orthogonal(layer)  # stores matrices of which the weight is computed
        stored |= {f"{front}projection.{name}": tensor.detach() for name, tensor in layer.state_dict().items()}
        stored[f"{front}{SOURCE}.weight"] = weights["change"].float() + rotation
        stored[f"{front}{SOURCE}.bias"] = weights["bias"].float()
    numbers = sorted(target.model.layer(port) for port in target.ports)
    blocks = target.backbone.ports.select("hidden", ("block",))
    config = {"architecture": "reft", "layers": "all" if len(numbers) == len(blocks) else numbers, "r": options["rank"]}
    config |= {"prefix_positions": options["first"], "suffix_positions": 0, "orthogonality": True, "tied_weights": True}
    config |= {"subtract_projection": True, "non_linearity": None, "dropout": 0.0, "output_reft": True}
    return AdapterHubMethod(config, stored)
