"""OFT and BOFT in the format of PEFT (``tuners/oft/layer.py`` and ``tuners/boft/layer.py`` of PEFT 0.21)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from adaptdock.plugins.contracts import Port
from adaptdock.plugins.toolkit.interchange.options import Count, Index, Real
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftOptions, PeftSource, PeftTarget
from adaptdock.plugins.toolkit.interchange.peft_lora import LayerOptions
from adaptdock.plugins.toolkit.interchange.peft_products import read_places, write_places
from adaptdock.plugins.toolkit.interchange.ports import port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, ModuleTensors, Named, contradiction, refuse

OFT_PARTS = {"triangles": "oft_R.weight"}
BOFT_PARTS = {"blocks": "boft_R", "scale_change": "boft_s"}
"""Our names of the tensors -> PEFT's."""
SERIES = "0.21.0"
"""The version of PEFT in a configuration; without one, PEFT warns of another series before 0.18."""
DIFFERENT = "its blocks have a different size at different layers, and here all have one"


class OftOptions(LayerOptions):
    """PEFT's options of OFT; the dropout acts in training only."""

    SILENT: ClassVar[frozenset[str]] = PeftOptions.SILENT | {"module_dropout", "fan_in_fan_out", "init_weights"}

    r: Index = 0
    oft_block_size: Index = 32
    bias: str = Field("none", pattern="^(none|all|oft_only)$")
    coft: bool = False
    eps: Real = 6e-5
    block_share: bool = False
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: Count = 5


class BoftOptions(LayerOptions):
    """PEFT's options of BOFT; the dropout acts in training only."""

    SILENT: ClassVar[frozenset[str]] = PeftOptions.SILENT | {"boft_dropout", "fan_in_fan_out", "init_weights"}

    boft_block_size: Index = 4
    boft_block_num: Index = 0
    boft_n_butterfly_factor: Count = 1
    bias: str = Field("none", pattern="^(none|all|boft_only)$")


# ---------------------------------------------------------------------------------------------- OFT


def oft_from_peft(source: PeftSource[OftOptions]) -> MethodWeights:
    """Read OFT; raise :class:`UsageError` for trained biases, and for blocks of several sizes."""
    options = source.options
    _check_bias(options.bias, "OFT")
    placed = read_places(source, r"oft_R\.", "OFT")
    sizes = {_oft_size(source, port, group) for port, group in placed.items()}
    if len(sizes) > 1:
        raise refuse("OFT with this number of blocks", DIFFERENT)
    (size,) = sizes
    tensors: dict[str, Named] = {}
    for port, group in placed.items():
        blocks = 1 if options.block_share else port.inputs // size
        reason = f"a layer of {port.inputs} inputs has {blocks} blocks of {size}"
        triangles = group.taken(OFT_PARTS["triangles"], (blocks, size * (size - 1) // 2), reason)
        tensors[port.name] = {"triangles": _projected(triangles, options.eps) if options.coft else triangles}
    values: dict[str, Any] = {"block_size": size, "share": options.block_share}
    values["terms"] = options.num_cayley_neumann_terms if options.use_cayley_neumann else 0
    return MethodWeights(values | port_selection(source.backbone.ports, [*placed]), tensors)


def _oft_size(source: PeftSource[OftOptions], port: Port, group: ModuleTensors) -> int:
    """Return the size of a block from the tensor; raise :class:`UsageError` if the configuration has another."""
    options, name = source.options, group.name(OFT_PARTS["triangles"])
    shape = group.shape(OFT_PARTS["triangles"])
    numbers = shape[-1] if shape else 0
    size = round((1 + math.sqrt(1 + 8 * numbers)) / 2)
    if len(shape) != 2 or size * (size - 1) // 2 != numbers:
        raise refuse(f"OFT at {group.module}", f"its tensor has the shape {shape}, which holds no upper triangles")
    if port.inputs % size:
        raise refuse(f"OFT at {group.module}", f"its blocks of {size} do not fit the {port.inputs} inputs of the layer")
    fits = port.inputs % options.oft_block_size == 0 if options.oft_block_size else port.inputs % (options.r or 1) == 0
    expected = options.oft_block_size or port.inputs // max(options.r, 1)
    if fits and size != expected:
        option = "oft_block_size" if options.oft_block_size else "r"
        configured = options.oft_block_size or options.r
        raise contradiction(source.tensors.path, option, configured, name, f"has blocks of {size}")
    return size


def _projected(triangles: Tensor, eps: float) -> Tensor:
    """Return the triangles of the constrained form: skew-symmetric blocks of a norm up to eps / sqrt(blocks)."""
    limit = eps / len(triangles) ** 0.5
    norms = triangles.float().norm(dim=1, keepdim=True) * 2**0.5  # each number is in its matrix twice
    return torch.where(norms <= limit, triangles.float(), triangles.float() * (limit / norms.clamp(min=1e-30)))


def oft_to_peft(options: Mapping[str, Any], target: PeftTarget) -> PeftAdapter:
    """Write OFT."""
    terms = options["terms"]
    values = {
        "r": 0,
        "oft_block_size": options["block_size"],
        "block_share": options["share"],
        "use_cayley_neumann": bool(terms),
        "num_cayley_neumann_terms": terms or 5,
        "coft": False,
        "bias": "none",
        "init_weights": True,
        "peft_version": SERIES,
    }
    return write_places(target, "OFT", OFT_PARTS, values)


# --------------------------------------------------------------------------------------------- BOFT


def boft_from_peft(source: PeftSource[BoftOptions]) -> MethodWeights:
    """Read BOFT; raise :class:`UsageError` for trained biases, and for blocks of several sizes."""
    options = source.options
    _check_bias(options.bias, "BOFT")
    placed = read_places(source, "boft_", "BOFT")
    shapes = {group.shape("boft_R") for group in placed.values()}
    odd = next((shape for shape in shapes if len(shape) != 4 or shape[2] != shape[3]), None)
    if odd is not None:
        raise refuse("BOFT", f"a tensor boft_R has the shape {odd}, which holds no square blocks")
    if len({(shape[0], shape[2]) for shape in shapes}) > 1:
        raise refuse("BOFT with this number of blocks", DIFFERENT)
    factors, _, size, _ = next(iter(shapes))
    tensors: dict[str, Named] = {}
    for port, group in placed.items():
        expected = options.boft_block_size or port.inputs // max(options.boft_block_num, 1)
        if size != expected:
            option = "boft_block_size" if options.boft_block_size else "boft_block_num"
            configured = options.boft_block_size or options.boft_block_num
            raise contradiction(source.tensors.path, option, configured, group.name("boft_R"), f"has blocks of {size}")
        reason = f"a layer of {port.inputs} inputs and {port.outputs} outputs has blocks of {size}"
        shape = (factors, port.inputs // size, size, size)
        tensors[port.name] = {
            "blocks": group.taken("boft_R", shape, reason),
            "scale_change": group.taken("boft_s", (port.outputs, 1), reason).float().flatten() - 1,
        }
    if factors != options.boft_n_butterfly_factor:
        source.notes.append(
            f"boft_n_butterfly_factor is {options.boft_n_butterfly_factor} and the tensors have {factors}: peft trains "
            f"with 1 where it cannot build its CUDA extension"
        )
    values = {"block_size": size, "factors": factors} | port_selection(source.backbone.ports, [*placed])
    return MethodWeights(values, tensors)


def boft_to_peft(options: Mapping[str, Any], target: PeftTarget) -> PeftAdapter:
    """Write BOFT."""
    values = {
        "boft_block_size": options["block_size"],
        "boft_block_num": 0,
        "boft_n_butterfly_factor": options["factors"],
        "bias": "none",
        "init_weights": True,
    }
    scaled = {
        name: {**tensors, "scale_change": 1 + tensors["scale_change"].float().unsqueeze(1)}
        for name, tensors in target.tensors.items()
    }
    return write_places(replace(target, tensors=scaled), "BOFT", BOFT_PARTS, values)


def _check_bias(bias: str, owner: str) -> None:
    if bias != "none":
        raise refuse(f"{owner} with bias {bias!r}", "the method has no biases")
