"""VeRA in the format of PEFT (``tuners/vera`` of PEFT 0.21): vectors by module, and one pair of matrices."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from adaptdock.plugins.toolkit.interchange.options import Count, Index, Rate, Real
from adaptdock.plugins.toolkit.interchange.peft import PeftAdapter, PeftOptions, PeftSource, PeftTarget
from adaptdock.plugins.toolkit.interchange.peft_lora import LayerOptions
from adaptdock.plugins.toolkit.interchange.peft_products import read_places, write_places
from adaptdock.plugins.toolkit.interchange.ports import port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, Named, contradiction, refuse

PARTS = {"vera_b": "vera_lambda_b", "vera_d": "vera_lambda_d"}
"""Our names of the vectors -> PEFT's."""
MATRICES = "base_model.vera_A", "base_model.vera_B"
Drawn = Callable[[Mapping[str, Any]], tuple[Tensor, Tensor]]
"""Returns the matrices that options of the method give."""


class VeraOptions(LayerOptions):
    """PEFT's options of VeRA."""

    SILENT: ClassVar[frozenset[str]] = PeftOptions.SILENT | {"fan_in_fan_out", "init_weights", "d_initial"}

    r: Count = 256
    projection_prng_key: Index = 0
    save_projection: bool = True
    vera_dropout: Rate = 0.0
    d_initial: Real = 0.1
    bias: str = Field("none", pattern="^(none|all|vera_only)$")


def from_peft(source: PeftSource[VeraOptions], drawn: Drawn) -> MethodWeights:
    """Read VeRA; raise :class:`UsageError` for trained biases.

    ``drawn`` gives the matrices of the seed; if the saved ones differ, each layer stores its part of them.
    """
    options, stored = source.options, source.tensors
    if options.bias != "none":
        raise refuse(f"VeRA with bias {options.bias!r}", "the method has no biases")
    placed = read_places(source, "vera_lambda_", "VeRA")
    tensors: dict[str, Named] = {}
    for port, group in placed.items():
        rank = group.shape(PARTS["vera_d"])
        if rank != (options.r,):
            raise contradiction(stored.path, "r", options.r, group.name(PARTS["vera_d"]), f"has the shape {rank}")
        tensors[port.name] = {
            "vera_b": group.taken(PARTS["vera_b"], (port.outputs,), "it has one number for each output of the map"),
            "vera_d": group.take(PARTS["vera_d"]),
        }
    values: dict[str, Any] = {"rank": options.r, "initial": options.d_initial, "dropout": options.vera_dropout}
    values |= {"projection_seed": options.projection_prng_key} | port_selection(source.backbone.ports, [*placed])
    down, up = drawn(values)
    odd = next((name for name in MATRICES if (name in stored.names) != options.save_projection), None)
    if odd is not None:
        state = "is missing" if options.save_projection else "is there"
        raise contradiction(stored.path, "save_projection", options.save_projection, odd, state)
    if not options.save_projection:
        source.notes.append("the matrices of VeRA are not in the folder; they are drawn from projection_prng_key")
        return MethodWeights(values, tensors)
    saved_down, saved_up = (stored.take(name) for name in MATRICES)
    if saved_down.equal(down) and saved_up.equal(up):
        return MethodWeights(values, tensors)
    for port in placed:
        if saved_down.shape[0] != options.r or saved_down.shape[1] < port.inputs or saved_up.shape[0] < port.outputs:
            shapes = f"{tuple(saved_down.shape)} and {tuple(saved_up.shape)}"
            raise refuse(f"VeRA at {port.module}", f"its matrices {shapes} are too small for it, or of another rank")
        tensors[port.name] |= {
            "projection_a": saved_down[:, : port.inputs].clone(),
            "projection_b": saved_up[: port.outputs].clone(),
        }
    return MethodWeights(values | {"store_projection": True}, tensors)


def to_peft(options: Mapping[str, Any], target: PeftTarget, shared: tuple[Tensor, Tensor]) -> PeftAdapter:
    """Write VeRA with its matrices, drawn (``shared``) or stored."""
    down, up = shared
    if options["store_projection"]:
        down, up = _joined(target, down, up)
    vectors = {port: {name: tensors[name] for name in PARTS} for port, tensors in target.tensors.items()}
    values = {
        "r": options["rank"],
        "projection_prng_key": options["projection_seed"],
        "save_projection": True,
        "vera_dropout": options["dropout"],
        "d_initial": options["initial"],
        "bias": "none",
        "fan_in_fan_out": all(target.is_conv(target.path(target.port(name))) for name in target.tensors),
    }
    written = write_places(replace(target, tensors=vectors), "VERA", PARTS, values, convolutions=True)
    return replace(written, shared=dict(zip(MATRICES, (down, up), strict=True)))


def _joined(target: PeftTarget, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return one pair of matrices of which every layer's is a part.

    Raises :class:`UsageError` if layers have different ones.
    """
    down, up = down.clone(), up.clone()
    by_size = sorted(target.tensors.values(), key=lambda tensors: tensors["projection_a"].shape[1])
    for tensors in by_size:
        down[:, : tensors["projection_a"].shape[1]] = tensors["projection_a"]
    for tensors in sorted(target.tensors.values(), key=lambda tensors: tensors["projection_b"].shape[0]):
        up[: tensors["projection_b"].shape[0]] = tensors["projection_b"]
    for tensors in by_size:
        first, second = tensors["projection_a"], tensors["projection_b"]
        if not down[:, : first.shape[1]].equal(first) or not up[: len(second)].equal(second):
            raise refuse("this VeRA", "its layers have different matrices, and peft's have one pair")
    return down, up
