"""AdapterHub's configuration of LoRA, which DoRA and IA3 share: its options, scale and places."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from adaptdock.plugins.ports import Port, Ports
from adaptdock.plugins.toolkit.interchange.adapterhub import (
    AdapterHubSource,
    AdapterHubTarget,
    MethodOptions,
    check_places,
    left_out,
    owned,
)
from adaptdock.plugins.toolkit.interchange.options import Count, Real
from adaptdock.plugins.toolkit.interchange.ports import Finder
from adaptdock.plugins.toolkit.interchange.tensors import ModuleTensors, refuse

ROLES = {"q": "query", "k": "key", "v": "value", "o": "attention_output"}
"""Name in ``attn_matrices`` -> our role."""
FUSED = "qkv"
OPTIONAL = frozenset({ROLES["o"], f"cross_{ROLES['o']}"})
"""Roles where only some models of the library have LoRA."""
FAULTY = (1, 1)
"""First version of the library that multiplies by alpha / r; earlier versions left the scale at 1."""


class LoraOptions(MethodOptions):
    """Options of LoRA, DoRA and IA3."""

    ACTIVE: ClassVar[Mapping[str, str]] = {}

    selfattn_lora: bool = True
    intermediate_lora: bool = False
    output_lora: bool = False
    attn_matrices: list[Literal["q", "k", "v", "o"]] = ["q", "v"]
    composition_mode: Literal["add", "scale"] = "add"
    r: Count
    alpha: Real
    use_dora: bool | None = False
    vera_d: Real | None = None
    vera_b: Real | None = None

    @property
    def vera(self) -> bool:
        """Whether all layers share their factors (VeRA)."""
        return self.vera_d is not None or self.vera_b is not None

    @property
    def thirds(self) -> list[int]:
        """The indices of the adapted maps (query, key, value), by their order in a fused map."""
        return [number for number, name in enumerate("qkv") if name in self.attn_matrices]


def read_places(source: AdapterHubSource[LoraOptions]) -> dict[Port, ModuleTensors]:
    """Return the tensors at each port; raise :class:`UsageError` if the configuration has other places."""
    source.options.check_carried("LoRA")
    finder = Finder(source.backbone.ports, "LoRA")
    placed: dict[Port, ModuleTensors] = {}
    for module, group in owned(source, "loras").items():
        port = finder.port(module)
        if port is None:
            architecture = source.backbone.architecture
            raise refuse(f"LoRA at {module}", f"{architecture!r} has no port there that an adapter can act at")
        placed[port] = group
    if not placed:
        raise refuse("this LoRA", "it has no tensors")
    modules = {port: group.module for port, group in placed.items()}
    ports, flags = _configured(source)
    check_places(source, ports, modules, flags, OPTIONAL)
    return placed


def _configured(source: AdapterHubSource[LoraOptions]) -> tuple[list[Port], dict[str, str]]:
    """Return the ports in a configuration, and the option of each role."""
    options = source.options
    flags = dict.fromkeys((*ROLES.values(), FUSED), "attn_matrices")
    up, down = source.model.feed_forward
    flags |= {up: "intermediate_lora", down: "output_lora"}
    roles = set()
    if options.selfattn_lora:
        roles |= {ROLES[name] for name in options.attn_matrices}
        roles |= {FUSED} if options.thirds else set()
    roles |= {up} if options.intermediate_lora else set()
    roles |= {down} if options.output_lora else set()
    attention = {role for role in roles if flags[role] == "attn_matrices"}
    roles |= {f"cross_{role}" for role in attention}
    flags |= {f"cross_{role}": "attn_matrices" for role in flags}
    return [port for port in source.backbone.ports if port.kind == "linear" and port.role in roles], flags


def read_alpha(source: AdapterHubSource[LoraOptions]) -> float:
    """Return alpha as the library uses it: before version 1.1 LoRA was trained as if alpha were the rank."""
    options, version = source.options, source.version
    match = re.match(r"adapters\.(\d{1,4})\.(\d{1,4})", version or "")
    faulty = match is not None and (int(match[1]), int(match[2])) < FAULTY
    if not faulty or options.alpha == options.r or not source.sole:
        return options.alpha
    source.notes.append(
        f"the adapter was saved by {version}, which trained LoRA with a scale of 1 whatever alpha is: as the "
        f"library does today, alpha is taken to be r ({options.r}), not {options.alpha:g}"
    )
    return float(options.r)


def is_fused(port: Port) -> bool:
    """Return whether a port's map has query, key and value side by side."""
    return port.role == Ports.FUSED["query"]


def write_places(target: AdapterHubTarget, ports: Sequence[Port]) -> dict[str, Any]:
    """Return the places of an adapter as options; raise :class:`UsageError` for places that no options name."""
    matrices = {role: name for name, role in ROLES.items() if name != "o"}
    roles = {port.role for port in ports}
    plain = {role.removeprefix("cross_") for role in roles}
    up, down = target.model.feed_forward
    if not plain <= {*matrices, FUSED, "ffn_up", "ffn_down"}:
        raise refuse(
            f"an adapter at {', '.join(sorted(roles))}", "AdapterHub's acts at q, k, v and the feed-forward maps"
        )
    attention = plain & matrices.keys()
    names = ["q", "k", "v"] if FUSED in plain else [matrices[role] for role in matrices if role in attention]
    everywhere = roles | {f"cross_{role}" for role in attention}
    candidates = [port for port in target.backbone.ports if port.kind == "linear" and port.role in everywhere]
    return {
        "selfattn_lora": bool(names),
        "attn_matrices": names,
        "intermediate_lora": up in plain,
        "output_lora": down in plain,
        "leave_out": left_out(target, ports, candidates, "this adapter"),
    }
