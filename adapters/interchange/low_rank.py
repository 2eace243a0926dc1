"""LoRA and DoRA in the formats of PEFT and AdapterHub.

PEFT has DoRA as LoRA with ``use_dora``, and so has AdapterHub. Ranks that differ by module are padded with zeros, and
scales that differ go into B; both are exact.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from adaptdock.plugins.contracts import Backbone, Port, Ports
from adaptdock.plugins.toolkit.interchange import adapterhub_lora as adapterhub
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.adapterhub import whole_model as adapterhub_whole_model
from adaptdock.plugins.toolkit.interchange.changes import WeightChange
from adaptdock.plugins.toolkit.interchange.peft import (
    HeadUpdate,
    PeftAdapter,
    PeftSource,
    PeftTarget,
    place,
    whole_number,
)
from adaptdock.plugins.toolkit.interchange.peft_lora import LoraOptions
from adaptdock.plugins.toolkit.interchange.ports import Finder, frozen_parameter, port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, ModuleTensors, Named, contradiction, refuse
from adaptdock.plugins.toolkit.lowrank import scale

TUNED = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_[AB]\.(?:weight|bias)|lora_embedding_[AB]|lora_magnitude_vector(?:\.weight)?)"
)
BIAS = re.compile(r"(?P<module>.+?)(?:\.base_layer)?\.bias")


# --------------------------------------------------------------------------------------- from PEFT


@dataclass(frozen=True)
class Factors:
    """LoRA tensors of a module: A (rank, inputs), B (outputs, rank), its bias, and DoRA's lengths (outputs)."""

    down: Tensor
    up: Tensor
    bias: Tensor | None
    magnitude: Tensor | None
    scale: float

    def change(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a linear map of a head, with the update added."""
        if (self.up.shape[0], self.down.shape[1]) != tuple(weight.shape):
            shapes = f"{tuple(self.up.shape)} and {tuple(self.down.shape)}"
            raise refuse("LoRA at the head", f"its factors are {shapes}, the map {tuple(weight.shape)}")
        moved = weight + self.scale * (self.up.float() @ self.down.float())
        if self.magnitude is not None:
            lengths = torch.linalg.vector_norm(moved, dim=1)
            moved = moved * (self.magnitude.float() / lengths).unsqueeze(1)
        return moved, bias if self.bias is None else bias + self.scale * self.bias.float()


def from_peft(source: PeftSource[LoraOptions]) -> MethodWeights:
    """Read LoRA or DoRA; raise :class:`UsageError` for an option or a place that cannot be carried over."""
    options, tensors, backbone = source.options, source.tensors, source.backbone
    options.check_carried()
    if options.lora_bias and options.use_dora:
        raise refuse("LoRA with lora_bias and use_dora", "peft has no adapter with both")
    finder, modules = Finder(backbone.ports, "LoRA"), tensors.modules(TUNED)
    embedded = next((module for module, group in modules.items() if "lora_embedding_A" in group), None)
    if embedded is not None:
        raise refuse(f"LoRA at {embedded}", "the embeddings are not a linear map, and not a port")
    factors: dict[Port, Factors] = {}
    for module, port in place(source, modules, finder).items():
        update = _factors(options, modules[module], port, tensors.path)
        if port is None:
            source.changes[module] = update.change
        else:
            factors[port] = update
    return _weights(options, factors, _biases(source, factors, finder), backbone)


def invoked_from_peft(source: PeftSource[LoraOptions]) -> MethodWeights:
    """Read LoRA with invocation tokens (aLoRA), which PEFT has at linear layers of the body, without biases."""
    options = source.options
    for option, active in (
        ("use_dora", options.use_dora),
        ("lora_bias", options.lora_bias),
        (f"bias {options.bias!r}", options.bias != "none"),
    ):
        if active:
            raise refuse(f"LoRA with alora_invocation_tokens and {option}", "the method has neither biases nor lengths")
    weights = from_peft(source)
    if source.changes:
        raise refuse(f"LoRA with alora_invocation_tokens at {next(iter(source.changes))}", "it is in the head")
    values = {name: value for name, value in weights.options.items() if name != "bias"}
    return MethodWeights({**values, "invocation": tuple(options.alora_invocation_tokens or ())}, weights.tensors)


def _factors(options: LoraOptions, group: ModuleTensors, port: Port | None, path: Path) -> Factors:
    """Take the tensors of a module, each in the shape that the configuration implies."""
    rank = options.rank(group.module)
    down, up = group.shape("lora_A.weight"), group.shape("lora_B.weight")
    if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
        raise refuse(f"LoRA at {group.module}", f"its factors are {up} and {down}, which make no product")
    if down[0] != rank:
        option = "r" if rank == options.r else "rank_pattern"
        raise contradiction(path, option, rank, group.name("lora_A.weight"), f"has the rank {down[0]}")
    if port is not None and (up[0], down[1]) != (port.outputs, port.inputs):
        raise refuse(
            f"LoRA at {group.module}",
            f"its factors are {up} and {down}, the backbone's map {(port.outputs, port.inputs)}: it was trained on "
            f"another backbone",
        )
    magnitude = next((part for part in group.parts if part.startswith("lora_magnitude")), "lora_magnitude_vector")
    optional = {}
    for option, wanted, part in (
        ("lora_bias", options.lora_bias, "lora_B.bias"),
        ("use_dora", options.use_dora, magnitude),
    ):
        if bool(wanted) != (part in group):
            state = "is there" if part in group else "is missing"
            raise contradiction(path, option, "true" if wanted else "false", group.name(part), state)
        reason = "one number for each output of the map"
        optional[option] = group.taken(part, (up[0],), reason) if wanted else None
    return Factors(
        group.take("lora_A.weight"),
        group.take("lora_B.weight"),
        optional["lora_bias"],
        optional["use_dora"],
        options.scale(group.module),
    )


def _weights(
    options: LoraOptions, placed: Mapping[Port, Factors], biases: Mapping[Port, Tensor], backbone: Backbone
) -> MethodWeights:
    rank = max(factors.down.shape[0] for factors in placed.values())
    alpha = options.lora_alpha if options.lora_alpha > 0 else float(rank)  # our scale must be positive: B gets the sign
    common = scale(rank, alpha, bool(options.use_rslora))
    biased = bool(biases) or bool(options.lora_bias)
    tensors: dict[str, Named] = {}
    for port, factors in placed.items():
        up = factors.up if factors.scale == common else factors.up.float() * (factors.scale / common)
        parameters = pair(factors.down, up, rank)
        if biased:
            parameters["bias_change"] = biases.get(port, torch.zeros(port.outputs))
            if factors.bias is not None:
                parameters["bias_change"] = parameters["bias_change"] + factors.scale * factors.bias.float()
        if factors.magnitude is not None:
            lengths = torch.linalg.vector_norm(backbone.weight(port).float().cpu(), dim=1)
            parameters["magnitude_change"] = factors.magnitude.float() - lengths
        tensors[port.name] = parameters
    values = {"rank": rank, "alpha": alpha, "rslora": bool(options.use_rslora), "bias": biased}
    values["dropout"] = options.lora_dropout
    return MethodWeights(values | port_selection(backbone.ports, list(placed)), tensors)


def pair(down: Tensor, up: Tensor, rank: int) -> Named:
    """Return A and B as our parameters, padded with zeros to a rank."""
    missing = rank - down.shape[0]
    if not missing:
        return {"lora_a": down, "lora_b": up}
    return {"lora_a": functional.pad(down, (0, 0, 0, missing)), "lora_b": functional.pad(up, (0, missing))}


def _biases(source: PeftSource[LoraOptions], placed: Mapping[Port, Any], finder: Finder) -> dict[Port, Tensor]:
    """Return the differences of trained biases from frozen biases at linear ports; other biases must be unchanged."""
    options, tensors, backbone = source.options, source.tensors, source.backbone
    changes: dict[Port, Tensor] = {}
    for name in list(tensors.unused):
        match = BIAS.fullmatch(name)
        if match is None or source.in_head(match["module"]) or f"{match['module']}.weight" in tensors.names:
            continue
        port = finder.port(match["module"])
        trained = tensors.unused[name]
        bias = backbone.bias(port).float().cpu() if port is not None else frozen_parameter(name, backbone)
        if bias is None or bias.shape != trained.shape:
            continue
        if port is not None and port in placed:
            changes[port] = tensors.take(name).float() - bias
        elif not trained.equal(bias.to(trained.dtype)):
            raise refuse(f"the trained bias {name}", "only biases of maps with LoRA can be imported")
        else:
            tensors.take(name)
    if options.bias == "none" and any(change.any() for change in changes.values()):
        source.notes.append("the configuration's bias is 'none', and biases were saved: as in peft, they count")
    if options.bias != "none":
        biased = {name for name, _ in backbone.model.named_parameters()}
        lacking = (port for port in placed if port not in changes and f"{port.module}.bias" in biased)
        for port in lacking:
            name = f"{finder.front}{port.module}.base_layer.bias"
            raise contradiction(tensors.path, "bias", repr(options.bias), name, "is missing")
    return changes


def from_changes(changes: Sequence[WeightChange], backbone: Backbone) -> MethodWeights:
    """Return LoRA of changes of linear layers, all of which have factors."""
    products = {change.port: _factors_of(change) for change in changes}
    rank = max(down.shape[0] for _, down in products.values())
    biased = any(change.bias is not None for change in changes)
    tensors = {}
    for change in changes:
        up, down = products[change.port]
        tensors[change.port.name] = pair(down, up, rank)
        if biased:
            bias = torch.zeros(change.port.outputs) if change.bias is None else change.bias.float()
            tensors[change.port.name]["bias_change"] = bias
    values = {"rank": rank, "alpha": float(rank), "bias": biased}
    return MethodWeights(values | port_selection(backbone.ports, list(products)), tensors)


def rank_of(change: WeightChange) -> int:
    """Return the rank of LoRA for a change of a linear layer; a change of full rank has the smaller of both widths."""
    return _factors_of(change)[1].shape[0]


def _factors_of(change: WeightChange) -> tuple[Tensor, Tensor]:
    port, weight = change.port, change.weight
    if change.factors is not None:
        return change.factors
    if weight is None:
        return torch.zeros(port.outputs, 1), torch.zeros(1, port.inputs)
    if port.outputs < port.inputs:
        return torch.eye(port.outputs), weight.float()
    return weight.float(), torch.eye(port.inputs)


# ----------------------------------------------------------------------------------------- to PEFT


def to_peft(options: Mapping[str, Any], target: PeftTarget) -> PeftAdapter:
    """Write LoRA, or DoRA if the parameters have magnitudes.

    Raises :class:`UsageError` for changes of biases that the base model cannot have.
    """
    dora = "magnitude_change" in next(iter(target.tensors.values()))
    paths = {port: target.path(port) for port in map(target.port, target.tensors)}
    stored: Named = {}
    for port, path in paths.items():
        weights = target.tensors[port.name]
        stored |= {f"{path}.lora_A.weight": weights["lora_a"], f"{path}.lora_B.weight": weights["lora_b"]}
        if dora:
            lengths = target.backbone.weight(port).float().cpu().norm(dim=1)
            stored[f"{path}.lora_magnitude_vector.weight"] = lengths + weights["magnitude_change"].float()
    config = {
        "peft_type": "LORA",
        "r": options["rank"],
        "lora_alpha": whole_number(options["alpha"]),
        "lora_dropout": options["dropout"],
        "use_rslora": options["rslora"],
        "use_dora": dora,
        "target_modules": target.target_modules(list(paths.values())),
        "fan_in_fan_out": all(map(target.is_conv, paths.values())),
        "bias": "none",
        "init_lora_weights": True,
    }
    updates = {} if dora else dict(target.updates)
    if options["bias"] or updates:
        config |= _bias_options(options, target, paths, stored, through_b=bool(updates))
    for path, update in updates.items():
        config |= _update(path, update, config, stored)
        del target.updates[path]
    return PeftAdapter(config, stored)


def invoked_to_peft(options: Mapping[str, Any], target: PeftTarget) -> PeftAdapter:
    """Write LoRA with invocation tokens (aLoRA)."""
    written = to_peft({**options, "bias": False}, target)
    return PeftAdapter({**written.config, "alora_invocation_tokens": [*options["invocation"]] or None}, written.tensors)


def _bias_options(
    options: Mapping[str, Any], target: PeftTarget, paths: Mapping[Port, str], stored: Named, through_b: bool
) -> dict[str, Any]:
    """Store changes of biases: as trained biases of the maps, or as a bias of B if a map has no bias.

    ``through_b`` asks for a bias of B at every map: PEFT has that bias at all maps or at none.
    """
    if not through_b and all(map(target.has_bias, paths.values())):
        for port, path in paths.items():
            trained = target.backbone.bias(port).float().cpu() + target.tensors[port.name]["bias_change"].float()
            stored[f"{path}.base_layer.bias"] = trained
        return {"bias": "lora_only"}
    if "magnitude_change" in next(iter(target.tensors.values())):
        raise refuse("DoRA with a bias", "some of its maps have none in this architecture")
    factor = scale(options["rank"], options["alpha"], options["rslora"])
    for port, path in paths.items():
        change = target.tensors[port.name].get("bias_change", torch.zeros(port.outputs))
        stored[f"{path}.lora_B.bias"] = change.float() / factor
    return {"lora_bias": True}


def _update(path: str, update: HeadUpdate, config: Mapping[str, Any], stored: Named) -> dict[str, Any]:
    """Store the update of a map in the head as LoRA with a bias; return the changed options.

    ``B`` is the identity and ``A`` the whole difference, so the update is exact.
    """
    classes = len(update.bias)
    stored[f"{path}.lora_A.weight"] = update.weight
    stored[f"{path}.lora_B.weight"] = torch.eye(classes)
    stored[f"{path}.lora_B.bias"] = update.bias
    return {
        "target_modules": [*config["target_modules"], path],
        "rank_pattern": {path: classes},
        "alpha_pattern": {path: whole_number(classes**0.5 if config["use_rslora"] else classes)},
    }


# --------------------------------------------------------------------------------- from AdapterHub


def from_adapterhub(source: AdapterHubSource[adapterhub.LoraOptions]) -> MethodWeights:
    """Read LoRA or DoRA; raise :class:`UsageError` for an option or a place that cannot be carried over."""
    options, backbone = source.options, source.backbone
    if options.use_gating:
        raise refuse("DoRA with gates", "the lengths of its rows are those of an update that is always the same")
    placed = adapterhub.read_places(source)
    alpha = adapterhub.read_alpha(source)
    if options.vera:
        factors = _shared_factors(source, placed)
    else:
        path = source.tensors.path
        factors = {port: adapterhub_factors(options, port, group, path) for port, group in placed.items()}
    rank = max(down.shape[0] for down, _ in factors.values())
    scaling = alpha / options.r
    positive = scaling if scaling > 0 else 1.0  # our scale must be positive: B gets the sign
    pairs = {}
    for port, (down, up) in factors.items():
        parameters = pair(down, up if scaling > 0 else up.float() * scaling, rank)
        if options.use_dora:
            parameters |= _lengthened(scaling, positive, port, placed[port], parameters, backbone)
        pairs[port.name] = parameters
    values = {"rank": rank, "alpha": positive * rank, "dropout": options.dropout, "bias": bool(options.use_dora)}
    return MethodWeights(values | port_selection(backbone.ports, list(placed)), pairs)


def _shared_factors(
    source: AdapterHubSource[adapterhub.LoraOptions], placed: Mapping[Port, ModuleTensors]
) -> dict[Port, tuple[Tensor, Tensor]]:
    """Return A and B of AdapterHub's VeRA, which has full matrices D and B' around the shared factors.

    Its update ``B' B D A`` is LoRA with the factors A and ``B' B D``.
    """
    options, rank = source.options, source.options.r
    if options.use_dora or options.use_gating:
        raise refuse("VeRA with DoRA or gates", "here its factors are multiplied out, and become LoRA")
    shared = adapterhub_whole_model(source, "shared_parameters")
    if shared is None:
        raise contradiction(source.tensors.path, "vera_d", options.vera_d, "shared_parameters", "is missing")
    factors = {}
    down, up = shared.take("lora_A").float(), shared.take("lora_B").float()
    for port, group in placed.items():
        if adapterhub.is_fused(port):
            raise refuse(f"VeRA at {port.module}", "it is a fused map")
        if tuple(down.shape) != (rank, port.inputs) or tuple(up.shape) != (port.outputs, rank):
            shapes = f"{tuple(up.shape)} and {tuple(down.shape)}"
            raise refuse(f"VeRA at {port.module}", f"its shared factors are {shapes}, and the rank is {rank}")
        inner = group.taken("vera_D", (rank, rank), f"the rank is {rank}").float()
        outer = group.taken("vera_B", (port.outputs, port.outputs), "it has a row for each output").float()
        factors[port] = (down.clone(), outer @ up @ inner)
    return factors


def adapterhub_factors(
    options: adapterhub.LoraOptions, port: Port, group: ModuleTensors, path: Path
) -> tuple[Tensor, Tensor]:
    """Return A and B. A fused QKV map has separate factors for query, key and value, side by side."""
    if not options.use_dora and "m.weight" in group:
        raise contradiction(path, "use_dora", "false", group.name("m.weight"), "is there")
    rank, fused = options.r, adapterhub.is_fused(port)
    thirds = options.thirds if fused else []
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


def _lengthened(
    scaling: float, positive: float, port: Port, group: ModuleTensors, factors: Named, backbone: Backbone
) -> Named:
    """Return our parameters for ``m / |W + B A| * (W x + b + s B A x)``, the formula of AdapterHub.

    Our formula does not scale the frozen bias b, so its scaling becomes a change of the bias; and it divides by the
    lengths of ``W + s B A``. ``factors`` hold B with the part of the scale missing in ``positive``.
    """
    if port.role in Ports.FUSED.values():
        raise refuse(f"DoRA at {port.module}", "AdapterHub leaves the magnitudes out where a map is fused")
    if scaling == 0:
        raise refuse("DoRA with an alpha of 0", "its update is divided by the lengths of one that does not act")
    weight, bias = backbone.weight(port).float().cpu(), backbone.bias(port).float().cpu()
    scaled = positive * (factors["lora_b"].float() @ factors["lora_a"].float())
    unscaled = scaled / scaling
    lengths = [torch.linalg.vector_norm(weight + product, dim=1) for product in (0.0 * scaled, unscaled, scaled)]
    magnitude = group.taken("m.weight", (port.outputs, 1), "it has one number for each output of the map")
    factor = magnitude.float().flatten() / lengths[1]
    return {"magnitude_change": factor * lengths[2] - lengths[0], "bias_change": (factor - 1) * bias}


# ----------------------------------------------------------------------------------- to AdapterHub


def to_adapterhub(options: Mapping[str, Any], target: AdapterHubTarget) -> AdapterHubMethod:
    """Write LoRA, or DoRA if the parameters have magnitudes; raise :class:`UsageError` for an unsupported adapter."""
    ports, rank = target.ports, options["rank"]
    scaling = scale(rank, options["alpha"], options["rslora"])
    dora = "magnitude_change" in next(iter(target.tensors.values()))
    stored: Named = {}
    for port in ports:
        weights, path = target.tensors[port.name], f"{port.module}.loras.{target.name}"
        if adapterhub.is_fused(port):
            if dora:
                raise refuse("DoRA at a fused map", "AdapterHub leaves the magnitudes out there")
            stored[f"{path}.lora_A"] = torch.cat([weights["lora_a"]] * 3)
        else:
            stored[f"{path}.lora_A"] = weights["lora_a"]
        stored[f"{path}.lora_B"] = weights["lora_b"]
        change = weights.get("bias_change")
        if dora:
            stored[f"{path}.m.weight"] = _magnitude(target.backbone, port, weights, scaling)
        elif change is not None and change.any():
            raise refuse("LoRA with a change of biases", "AdapterHub's has none")
    config = {"architecture": "lora", "composition_mode": "add", "r": rank, "alpha": scaling * rank, "use_dora": dora}
    config |= {"dropout": options["dropout"], "init_weights": "lora", "use_gating": False}
    return AdapterHubMethod(config | adapterhub.write_places(target, ports), stored)


def _magnitude(backbone: Backbone, port: Port, weights: Named, scaling: float) -> Tensor:
    """Return m such that ``m / |W + B A| * (W x + b + s B A x)`` equals our formula."""
    weight, bias = backbone.weight(port).float().cpu(), backbone.bias(port).float().cpu()
    product = weights["lora_b"].float() @ weights["lora_a"].float()
    plain, unscaled, scaled = (torch.linalg.vector_norm(weight + s * product, dim=1) for s in (0.0, 1.0, scaling))
    factor = (plain + weights["magnitude_change"].float()) / scaled
    change = weights.get("bias_change", torch.zeros_like(bias)).float()
    if not torch.allclose(change, (factor - 1) * bias, atol=1e-6):
        raise refuse("this DoRA", "AdapterHub's multiplies the biases with the rows, and this one does not")
    magnitude: Tensor = (factor * unscaled).unsqueeze(1)
    return magnitude
