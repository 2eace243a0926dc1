"""IA3 in the formats of PEFT and AdapterHub, whose IA3 is LoRA that scales."""

import re
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from adaptdock.plugins.contracts import Backbone, Port
from adaptdock.plugins.toolkit.interchange import adapterhub_lora as adapterhub
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubSource, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.options import Expression, compiled
from adaptdock.plugins.toolkit.interchange.peft import (
    Change,
    PeftAdapter,
    PeftOptions,
    PeftSource,
    PeftTarget,
    TunerOptions,
    place,
    shortened,
)
from adaptdock.plugins.toolkit.interchange.ports import Finder, ends, port_selection
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, Named, contradiction, refuse

TUNED = re.compile(r"(?P<module>.+)\.(?P<part>ia3_l)")


class Ia3Options(TunerOptions):
    """PEFT's options of IA3."""

    SILENT: ClassVar[frozenset[str]] = PeftOptions.SILENT | {"fan_in_fan_out", "init_ia3_weights"}

    feedforward_modules: list[str] | Expression | None = None

    def enters(self, module: str) -> bool | None:
        """Return whether the factors act on the input of a module; None if the configuration leaves it open."""
        names = self.feedforward_modules
        if isinstance(names, str):
            return compiled(names).fullmatch(module) is not None
        return None if names is None else any(module.endswith(name) for name in names)


def from_peft(source: PeftSource[Ia3Options]) -> MethodWeights:
    """Read factors on outputs and inputs; raise :class:`UsageError` for factors that fit no map."""
    options, tensors, backbone = source.options, source.tensors, source.backbone
    finder, modules = Finder(backbone.ports, "IA3"), tensors.modules(TUNED)
    placed: dict[str, Named] = {}
    leaving: list[Port] = []
    entering: list[Port] = []
    for module, port in place(source, modules, finder).items():
        group = modules[module]
        shape = group.shape("ia3_l")
        enters = len(shape) == 2 and shape[0] == 1 and not (shape[1] == 1 and options.enters(module) is False)
        if options.enters(module) not in (None, enters):
            side = "what the map reads" if enters else "what it gives"
            state = f"has the shape {shape}: factors on {side}"
            configured = shortened(options.feedforward_modules)
            raise contradiction(tensors.path, "feedforward_modules", configured, group.name("ia3_l"), state)
        if len(shape) != 2 or 1 not in shape:
            raise refuse(f"IA3 at {module}", f"its factors have the shape {shape}, and not (outputs, 1) or (1, inputs)")
        factor = group.take("ia3_l").float()
        if port is None:
            source.changes[module] = _scaled(factor, enters)
            continue
        if factor.numel() != (port.inputs if enters else port.outputs):
            raise refuse(f"IA3 at {module}", f"it has {factor.numel()} factors: it was trained on another backbone")
        (entering if enters else leaving).append(port)
        placed[port.name] = {f"{'input' if enters else 'output'}_factor": factor.flatten() - 1}
    return MethodWeights(_sides(backbone, leaving, entering), placed)


def _scaled(factor: Tensor, enters: bool) -> Change:
    """Return the change of a head's map by factors on its outputs (outputs, 1) or on its inputs (1, inputs)."""

    def change(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        if factor.numel() != weight.shape[1 if enters else 0]:
            raise refuse("IA3 at the head", f"it has {factor.numel()} factors, the map is {tuple(weight.shape)}")
        return weight * factor, bias if enters else bias * factor.flatten()

    return change


def _sides(backbone: Backbone, leaving: list[Port], entering: list[Port]) -> dict[str, Any]:
    """Return our options for the outputs of some ports and the inputs of others."""
    out, inner = (port_selection(backbone.ports, ports) if ports else {} for ports in (leaving, entering))
    layers = {part["layers"] for part in (out, inner) if part}
    if len(layers) == 1:
        roles = {"roles": out.get("roles", ()), "input_roles": inner.get("roles", ()), "layers": layers.pop()}
    else:
        roles = {"roles": _names(leaving), "input_roles": _names(entering)}
    return {"feed_forward": False, **roles}


def _names(ports: Iterable[Port]) -> tuple[str, ...]:
    return tuple(port.name for port in ports)


def to_peft(target: PeftTarget) -> PeftAdapter:
    """Write the factors, with names for the modules whose inputs have them."""
    stored: Named = {}
    paths, entered = [], []
    for name, factors in target.tensors.items():
        path = target.path(target.port(name))
        enters = "input_factor" in factors
        factor = 1 + factors["input_factor" if enters else "output_factor"].float()
        stored[f"{path}.ia3_l"] = factor.unsqueeze(0) if enters else factor.unsqueeze(1)
        paths.append(path)
        if enters:
            entered.append(path)
    targets = target.target_modules(paths)
    inner = [name for name in targets if any(ends(path, name) for path in entered)]
    if any(ends(path, name) for name in inner for path in set(paths) - set(entered)):
        targets, inner = sorted(paths), sorted(entered)
    config = {
        "peft_type": "IA3",
        "target_modules": targets,
        "feedforward_modules": inner,
        "fan_in_fan_out": all(map(target.is_conv, paths)),
        "init_ia3_weights": True,
    }
    return PeftAdapter(config, stored)


def from_adapterhub(source: AdapterHubSource[adapterhub.LoraOptions]) -> MethodWeights:
    """Read factors on outputs; a fused map has those of the named parts."""
    options = source.options
    placed = adapterhub.read_places(source)
    alpha = adapterhub.read_alpha(source)
    if options.use_gating:
        raise refuse("(IA)^3 with gates", "a gate weighs the whole factor, so an output would be divided by it")
    if options.r != 1 or options.use_dora:
        raise refuse("LoRA that scales", f"the library has it with r 1 and without DoRA; here r is {options.r}")
    tensors: dict[str, Named] = {}
    for port, group in placed.items():
        thirds = options.thirds if adapterhub.is_fused(port) else []
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
    values = {"feed_forward": False, **port_selection(source.backbone.ports, list(placed))}
    return MethodWeights(values, tensors)


def to_adapterhub(target: AdapterHubTarget) -> AdapterHubMethod:
    """Write the factors; raise :class:`UsageError` for factors on inputs."""
    stored: Named = {}
    for port in target.ports:
        factors = target.tensors[port.name]
        if "input_factor" in factors:
            raise refuse(f"IA3 at the input of {port.name}", "AdapterHub's has factors on outputs only")
        stored[f"{port.module}.loras.{target.name}.lora_B"] = (1 + factors["output_factor"].float()).unsqueeze(1)
    config = {"architecture": "lora", "composition_mode": "scale", "r": 1, "alpha": 1, "use_dora": False}
    config |= {"dropout": 0.0, "init_weights": "ia3", "use_gating": False}
    return AdapterHubMethod(config | adapterhub.write_places(target, target.ports), stored)
