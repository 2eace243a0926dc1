"""Bottlenecks in the format of AdapterHub."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch.nn import functional

from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Backbone, Port, Ports
from adaptdock.plugins.toolkit.interchange.activations import foreign_name, our_name
from adaptdock.plugins.toolkit.interchange.adapterhub import (
    GATED,
    AdapterHubMethod,
    AdapterHubSource,
    AdapterHubTarget,
    MethodOptions,
    check_places,
    left_out,
    owned,
)
from adaptdock.plugins.toolkit.interchange.options import Count, Real
from adaptdock.plugins.toolkit.interchange.ports import port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, ModuleTensors, Named, contradiction, refuse

FLAGS = {"attention_output": "mh_adapter", "cross_attention_output": "cross_adapter", "ffn_down": "output_adapter"}
"""Role -> the option for a bottleneck there."""
LEARNED = ("learned", "channel")
Reduction = Annotated[float, Field(gt=0, le=1e6)]
"""The hidden size divided by the width of the bottleneck; below 1 the bottleneck is wider."""


class BottleneckOptions(MethodOptions):
    """AdapterHub's options of a bottleneck."""

    SILENT: ClassVar[frozenset[str]] = (
        MethodOptions.SILENT
        | {"hypercomplex_nonlinearity", "inv_adapter"}
        | {"inv_adapter_reduction_factor", "learn_phm", "phm_c_init", "phm_init_range", "stochastic_depth"}
        | {"attention_type", "new_attention_norm"}  # of the first release, for what ln_before and ln_after say
    )
    ACTIVE: ClassVar[Mapping[str, str]] = {
        "invertible_adapter": "it is of the first release of the library; load and save it with a newer one",
    }

    mh_adapter: bool
    output_adapter: bool
    cross_adapter: bool = False
    reduction_factor: Reduction | dict[str, Reduction]
    non_linearity: str | None
    scaling: Real | Literal["learned", "channel"] = 1.0
    is_parallel: bool = False
    original_ln_before: bool = False
    original_ln_after: bool = True
    residual_before_ln: bool | Literal["post_add"] = True
    ln_before: bool = False
    ln_after: bool = False
    adapter_residual_before_ln: bool = False
    phm_layer: bool = False
    phm_dim: Count = 4
    phm_rank: Count = 1
    phm_bias: bool = True
    shared_phm_rule: bool = True
    factorized_phm_rule: bool = False
    shared_maps: bool = Field(False, alias="shared_W_phm")
    factorized_maps: bool = Field(True, alias="factorized_phm_W")

    def width(self, layer: int, hidden: int) -> int | None:
        """Return the width in a layer; None if the configuration has no value for the layer."""
        factor = self.reduction_factor
        if isinstance(factor, dict):
            factor = factor.get(str(layer), factor.get("default", 0.0))
        return max(int(hidden // factor), 1) if factor else None


# -------------------------------------------------------------------------------------------- import


Source = AdapterHubSource[BottleneckOptions]


def from_adapterhub(
    source: Source,
    read: "Callable[[Source, Port, ModuleTensors], Named] | None" = None,
    widen: "Callable[[dict[str, Named]], tuple[int, dict[str, Named]]] | None" = None,
) -> MethodWeights:
    """Read bottlenecks; raise :class:`UsageError` for an option or a place that cannot be carried over.

    ``read`` takes the tensors of one bottleneck, and ``widen`` pads those of all places to the returned common width;
    by default those of two linear layers.
    """
    options, backbone = source.options, source.backbone
    options.check_carried("a bottleneck")
    placed: dict[Port, ModuleTensors] = {}
    for module, group in owned(source, "adapters").items():
        port = source.model.block_end(module)
        if port in placed:
            raise refuse(f"the bottlenecks at {module} and {placed[port].module}", "they end the same block")
        placed[port] = group
    if not placed:
        raise refuse("this bottleneck", "it has no tensors")
    modules = {port: group.module for port, group in placed.items()}
    check_places(source, _configured(source), modules, FLAGS)
    read, widen = read or _maps, widen or _equally_wide
    beside = {port.name: _beside_layers(source, port, group) for port, group in placed.items()}
    width, maps = widen({port.name: read(source, port, group) | beside[port.name] for port, group in placed.items()})
    ports = list(placed)
    places = port_selection(backbone.ports, ports)
    values = {"width": width, **_wiring(options, backbone, ports[0]), **places, **_factor(options, maps)}
    if options.use_gating:
        source.notes.append(GATED)
    if not values["behind"]:
        return MethodWeights(values, maps)
    return MethodWeights(values, {norm_behind(backbone.ports, port).name: maps[port.name] for port in ports})


def norm_behind(ports: Ports, port: Port) -> Port:
    """Return the port at the layer norm after the residual sum of a block that ends at ``port``.

    Raises :class:`BackboneError` if no layer norm follows.
    """
    path = ports.residual(port).norm
    norm = next((norm for norm in ports if norm.kind == "norm" and norm.module == path), None)
    if norm is None:
        raise BackboneError(f"behind: in {ports.architecture!r} no layer norm follows {port.name}")
    return norm


def _configured(source: AdapterHubSource[BottleneckOptions]) -> list[Port]:
    """Return the ports of the bottlenecks in a configuration, layers in ``leave_out`` included.

    Raises :class:`UsageError` for an architecture in which the library reads another state there.
    """
    options, backbone = source.options, source.backbone
    if options.mh_adapter and source.model.feeds_attention_input:
        raise refuse(
            f"a bottleneck with mh_adapter in {backbone.architecture}",
            "there the library feeds it with the input of the attention, and not with its output",
        )
    roles = {role for role, flag in FLAGS.items() if getattr(options, flag)}
    return [port for port in backbone.ports if port.kind == "linear" and port.role in roles]


def configured_width(source: Source, port: Port, group: ModuleTensors) -> int:
    """Return the width of a bottleneck; raise :class:`UsageError` if the configuration has none for its layer."""
    layer = source.model.layer(port)
    width = source.options.width(layer, source.backbone.width)
    if width is None:
        raise refuse(
            f"the bottleneck at {group.module}", f"its reduction_factor has no value for layer {layer} and no 'default'"
        )
    return width


def _maps(source: AdapterHubSource[BottleneckOptions], port: Port, group: ModuleTensors) -> Named:
    """Take the two maps of a bottleneck, (width, W) and (W, width); a learned scale is multiplied into the second."""
    options, path = source.options, source.tensors.path
    first = first_layer(options.ln_before)
    shape, layer = group.shape(f"{first}.weight"), source.model.layer(port)
    width = configured_width(source, port, group)
    if shape != (width, port.outputs):
        raise contradiction(
            path,
            "reduction_factor",
            f"{options.reduction_factor} (a width of {width} in layer {layer})",
            group.name(f"{first}.weight"),
            f"has the shape {shape}, where ({width}, {port.outputs}) is expected",
        )
    reason = f"the bottleneck is {width} wide, the backbone {port.outputs}"
    maps = {
        "down": group.take(f"{first}.weight"),
        "down_bias": group.taken(f"{first}.bias", (width,), reason),
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


def first_layer(ln_before: bool) -> str:
    """Return the name of the first linear layer, which follows the norm before it in one sequence of modules."""
    return "adapter_down.1" if ln_before else "adapter_down.0"


def _beside_layers(source: Source, port: Port, group: ModuleTensors) -> Named:
    """Take the gate and the layer norms of a bottleneck; the norm before it is stored twice.

    Raises :class:`UsageError` for two different copies.
    """
    norms: Named = {}
    if source.options.use_gating:
        norms = {
            "gate_weight": group.taken("gate.weight", (1, port.outputs), "use_gating is on"),
            "gate_bias": group.taken("gate.bias", (1,), "use_gating is on"),
        }
    for place in ("before", "after"):
        if getattr(source.options, f"ln_{place}"):
            for part in ("weight", "bias"):
                name = f"adapter_norm_{place}.{part}"
                norms[f"{place}_{part}"] = group.taken(name, (port.outputs,), f"ln_{place} is on")
    if source.options.ln_before:
        for part in ("weight", "bias"):
            copy = f"adapter_down.0.{part}"
            if copy in group and not group.take(copy).equal(norms[f"before_{part}"]):
                raise refuse(group.name(copy), f"it differs from its copy adapter_norm_before.{part}")
    return norms


def _equally_wide(maps: dict[str, Named]) -> tuple[int, dict[str, Named]]:
    width = max(port_maps["down"].shape[0] for port_maps in maps.values())
    return width, {port: _widened(port_maps, width) for port, port_maps in maps.items()}


def _widened(maps: Named, width: int) -> Named:
    missing = width - maps["down"].shape[0]
    if not missing:
        return maps
    return {
        **maps,
        "down": functional.pad(maps["down"], (0, 0, 0, missing)),
        "down_bias": functional.pad(maps["down_bias"], (0, missing)),
        "up": functional.pad(maps["up"], (0, missing)),
    }


def _factor(options: BottleneckOptions, maps: dict[str, Named]) -> dict[str, Any]:
    """Return the scale. A scale that is not positive is multiplied into the weights."""
    scale = options.scaling
    if isinstance(scale, str):
        return {"scale": 1.0}
    if scale > 0:
        return {"scale": float(scale)}
    for port_maps in maps.values():
        last = ("up" if "up" in port_maps else "up_right", "up_bias")
        port_maps.update({name: port_maps[name] * float(scale) for name in last})
    return {"scale": 1.0}


def _wiring(options: BottleneckOptions, backbone: Backbone, port: Port) -> dict[str, Any]:
    """Return options for the input and the addition of a bottleneck (``Adapter.pre_forward`` and ``post_forward``)."""
    values = {
        "activation": our_name(options.non_linearity, "the bottleneck"),
        "norm_before": options.ln_before,
        "norm_after": options.ln_after,
        "norm_sum": options.ln_after and options.adapter_residual_before_ln and not options.is_parallel,
        "parallel": options.is_parallel,
        "dropout": options.dropout,
        "text_gate": bool(options.use_gating),
        "behind": False,
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
    if not after and normed:
        if residual is True or not before:
            raise refuse(
                "a bottleneck with original_ln_after off",
                "without original_ln_before, or with residual_before_ln true, the residual stream ends there",
            )
        return {**values, "behind": True, "onto": "sum" if residual == "post_add" else "output"}
    if not after:
        if onto != "sum":
            raise refuse("a bottleneck with original_ln_after off", "the residual stream ends there")
        onto = "output"  # the backbone itself adds the sum
    return {**values, "stream": before, "onto": onto}


def _follows(backbone: Backbone, port: Port) -> bool:
    """Return whether a layer norm reads the residual sum."""
    try:
        return backbone.ports.residual(port).norm is not None
    except BackboneError as error:
        raise refuse("a bottleneck with original_ln_before", str(error)) from None


# -------------------------------------------------------------------------------------------- export


PARTS = {
    "down": "adapter_down.0.weight",
    "down_bias": "adapter_down.0.bias",
    "up": "adapter_up.weight",
    "up_bias": "adapter_up.bias",
}
NORM_PARTS = {
    f"{place}_{part}": f"adapter_norm_{place}.{part}" for place in ("before", "after") for part in ("weight", "bias")
}
GATE_PARTS = {"gate_weight": "gate.weight", "gate_bias": "gate.bias"}
"""Our names of the tensors -> those of the library."""


def to_adapterhub(
    options: Mapping[str, Any], target: AdapterHubTarget, parts: Mapping[str, str] = PARTS
) -> AdapterHubMethod:
    """Write bottlenecks; raise :class:`UsageError` for wiring that AdapterHub has no options for."""
    places = _ends(target) if options["behind"] else dict(zip(target.ports, target.ports, strict=True))
    ports = list(places)
    stored: Named = {}
    first = first_layer(options["norm_before"])
    names = {name: part.replace(first_layer(False), first) for name, part in parts.items()} | NORM_PARTS | GATE_PARTS
    for port, acting in places.items():
        path = f"{target.model.block(port)}.adapters.{target.name}"
        for name, tensor in target.tensors[acting.name].items():
            stored[f"{path}.{names[name]}"] = tensor
            if name.startswith("before_"):  # the library has this norm under two names
                stored[f"{path}.{first_layer(False)}.{name.removeprefix('before_')}"] = tensor
    width = next(iter(target.tensors.values()))["down_bias"].shape[0]
    roles = {port.role for port in ports}
    candidates = [port for port in target.backbone.ports if port.kind == ports[0].kind and port.role in roles]
    config = {
        **{flag: any(port.role == role for port in ports) for role, flag in FLAGS.items()},
        "leave_out": left_out(target, ports, candidates, "this adapter"),
        "reduction_factor": _reduction(target.backbone.width, width),
        "non_linearity": foreign_name(options["activation"]),
        "scaling": float(options["scale"]),
        "dropout": options["dropout"],
        **_library_wiring(options, target.backbone, ports),
    }
    return AdapterHubMethod(config, stored)


def _ends(target: AdapterHubTarget) -> dict[Port, Port]:
    """Return the last linear layer of each block whose layer norm has a bottleneck, with the port of the norm."""
    ports = target.backbone.ports
    norms = {port.module: port for port in target.ports}
    ends = [port for port in ports if port.kind == "linear" and port.role in FLAGS]
    return {end: norms[path] for end in ends if (path := ports.residual(end).norm) in norms}


def _library_wiring(options: Mapping[str, Any], backbone: Backbone, ports: list[Port]) -> dict[str, Any]:
    """Return AdapterHub's options for the input and the addition of a bottleneck."""
    wired = {"original_ln_before": False, "original_ln_after": True, "is_parallel": options["parallel"]}
    wired |= {"residual_before_ln": True, "adapter_residual_before_ln": options["norm_sum"]}
    wired |= {"ln_before": options["norm_before"], "ln_after": options["norm_after"]}
    wired |= {"use_gating": options["text_gate"]}
    if options["behind"]:
        onto = {"output": False, "sum": "post_add"}[options["onto"]]
        return {**wired, "original_ln_before": True, "original_ln_after": False, "residual_before_ln": onto}
    if options["parallel"]:
        if not options["stream"] and not all(_reads_stream(backbone, port) for port in ports):
            raise refuse("this parallel bottleneck", "AdapterHub's reads the residual stream (train with --stream)")
        return wired
    if not options["stream"]:
        return wired
    normed = backbone.ports.residual(ports[0]).norm is not None
    residual = {"output": True, "sum": "post_add" if normed else False, "norm": False}
    return {**wired, "original_ln_before": True, "residual_before_ln": residual[options["onto"]]}


def _reads_stream(backbone: Backbone, port: Port) -> bool:
    """Return whether the input of a block is the residual stream, as in models with a layer norm after the sum."""
    try:
        return backbone.ports.residual(port).norm is not None
    except BackboneError:
        return False


def _reduction(hidden: int, width: int) -> float:
    """Return a reduction factor for this width, which the library computes as ``int(hidden // factor)``."""
    # Rounding errors can make int(hidden // exact) one too small.
    exact = hidden / width
    return exact if int(hidden // exact) == width else hidden / (width + 0.5)
