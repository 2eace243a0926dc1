"""Places of adapters in AdapterHub: the ports named by a configuration, compared with the ports of the tensors."""

from collections.abc import Collection, Mapping
from pathlib import Path

from adaptdock.hub.interchange.adapterhub_config import BottleneckOptions, LoraOptions, MethodOptions
from adaptdock.hub.interchange.incoming_tensors import contradiction, refuse
from adaptdock.plugins.contracts import Backbone, Port

FLAGS = {"attention_output": "mh_adapter", "cross_attention_output": "cross_adapter", "ffn_down": "output_adapter"}
"""Role -> the option for a bottleneck there."""
EXCHANGED = frozenset({"llama", "mistral"})
"""Architectures whose feed-forward down and up maps are called intermediate and output in the library."""
SWAPPED = frozenset({"albert"})
"""Architectures in which a bottleneck after the attention gets the block's input instead of its output."""
OTHERWISE = frozenset({"deberta"})
"""Architectures whose hidden states differ between the library and transformers, even without an adapter."""
MATRICES = {"q": "query", "k": "key", "v": "value", "o": "attention_output"}


def counted(port: Port, backbone: Backbone) -> int:
    """Return the number of a port's layer as the library counts: decoder layers follow the encoder's."""
    if port.stack != "decoder":
        return port.layer
    return (
        port.layer + 1 + max(encoder_port.layer for encoder_port in backbone.ports if encoder_port.stack == "encoder")
    )


def bottleneck_ports(options: BottleneckOptions, backbone: Backbone) -> list[Port]:
    """Return the ports of the bottlenecks in a configuration, layers in ``leave_out`` included.

    Raises :class:`UsageError` for an architecture in which the library reads another state there.
    """
    active = {"mh_adapter": options.mh_adapter, "cross_adapter": options.cross_adapter}
    active["output_adapter"] = options.output_adapter
    if options.mh_adapter and backbone.architecture in SWAPPED:
        raise refuse(
            f"a bottleneck with mh_adapter in {backbone.architecture}",
            "there the library feeds it with the input of the attention, and not with its output",
        )
    roles = {role for role, flag in FLAGS.items() if active[flag]}
    return [port for port in backbone.ports if port.kind == "linear" and port.role in roles]


def lora_ports(options: LoraOptions, backbone: Backbone) -> tuple[list[Port], dict[str, str]]:
    """Return the ports of LoRA in a configuration, and the option of each role."""
    flags = {MATRICES[name]: "attn_matrices" for name in MATRICES}
    flags |= {"qkv": "attn_matrices"}
    up, down = ("ffn_down", "ffn_up") if backbone.architecture in EXCHANGED else ("ffn_up", "ffn_down")
    flags |= {up: "intermediate_lora", down: "output_lora"}
    roles = set()
    if options.selfattn_lora:
        roles |= {MATRICES[name] for name in options.attn_matrices}
        roles |= {"qkv"} if {"q", "k", "v"} & {*options.attn_matrices} else set()
    roles |= {up} if options.intermediate_lora else set()
    roles |= {down} if options.output_lora else set()
    attention = {role for role in roles if flags[role] == "attn_matrices"}
    roles |= {f"cross_{role}" for role in attention}
    flags |= {f"cross_{role}": "attn_matrices" for role in flags}
    return [port for port in backbone.ports if port.kind == "linear" and port.role in roles], flags


def check_places(
    path: Path,
    expected: Collection[Port],
    modules: Mapping[Port, str],
    flags: Mapping[str, str],
    options: MethodOptions,
    backbone: Backbone,
) -> None:
    """Raise :class:`UsageError` if tensors and configuration have different places.

    ``modules`` are the ports of the tensors, with their paths; ``flags`` is the option of each role.
    """
    left_out = set(options.leave_out or ())
    for port, module in modules.items():
        layer = counted(port, backbone)
        if layer in left_out:
            raise contradiction(path, "leave_out", sorted(left_out), module, f"is in layer {layer}")
        if port not in expected:
            option = flags.get(port.role)
            if option is None:
                raise refuse(f"the adapter at {module}", f"the library puts none at {port.name}")
            raise contradiction(path, option, getattr(options, option), module, f"acts at {port.name}")
    optional = {MATRICES["o"], f"cross_{MATRICES['o']}"}  # only some models of the library have it there
    for port in expected:
        layer = counted(port, backbone)
        if port not in modules and layer not in left_out and (port.role not in optional or flags is FLAGS):
            option = flags[port.role]
            raise contradiction(path, option, getattr(options, option), port.module, f"is missing (layer {layer})")
