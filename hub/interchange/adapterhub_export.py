"""Export to AdapterHub: adapter, head, and a configuration of each, in the format of the library.

Weights are written twice: the library reads ``.bin`` (plain tensors) unless it gets ``use_safetensors=True``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.errors import BackboneError
from adaptdock.hub.artefact.atomic import atomic_folder
from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.adapterhub_heads_export import head_of
from adaptdock.hub.interchange.adapterhub_places import EXCHANGED, FLAGS, counted
from adaptdock.hub.interchange.incoming_tensors import Named, refuse
from adaptdock.hub.interchange.outgoing import Outgoing
from adaptdock.plugins.contracts import Port

if TYPE_CHECKING:
    from torch import Tensor

NAME, VERSION = "adapter", "adapters.1.3.0"
"""The name inside the files (the library renames the adapter on loading), and the format version."""
IN_BLOCK = frozenset({"bert", "roberta", "xlm-roberta", "electra", "bert-generation", "xmod", "deberta", "deberta-v2"})
IN_LAYER = frozenset({"t5", "mt5"})
BESIDE = frozenset({"gpt2", "gptj", "llama", "mistral", "distilbert", "bart", "mbart", "plbart"})
"""Architectures by the place of their bottlenecks: in the block's output, in the layer, or beside the block."""
OWNERS = {
    "attention_output": "attention_adapters",
    "cross_attention_output": "cross_attention_adapters",
    "ffn_down": "output_adapters",
}
FUNCTIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "silu": "swish",
    "tanh": "tanh",
    "leaky_relu": "leakyrelu",
    "mish": "mish",
    "identity": "linear",
}
MATRICES = {"query": "q", "key": "k", "value": "v"}


def write_adapterhub(out: Outgoing, folder: Path) -> list[str]:
    """Write an adapter in the format of AdapterHub, and return notes for the user.

    Raises :class:`UsageError` for an unsupported adapter. The folder is written atomically.
    """
    if out.backbone.architecture not in IN_BLOCK | IN_LAYER | BESIDE:
        raise refuse(f"an adapter for {out.backbone.architecture}", "AdapterHub has no such model that is known here")
    methods = [_part(out, name, options, tensors) for name, options, tensors in out.parts]
    configs = [config for config, _ in methods]
    config = configs[0] if len(configs) == 1 else {"architecture": "union", "configs": configs}
    front = f"{getattr(out.backbone.model, 'base_model_prefix', '')}."
    tensors = {f"{front}{path}": tensor for _, stored in methods for path, tensor in stored.items()}
    head = head_of(out, NAME)
    about = {
        "hidden_size": out.backbone.width,
        "model_class": f"{_family(out)}AdapterModel",
        "model_name": out.base,
        "model_type": out.backbone.architecture,
        "name": NAME,
        "version": VERSION,
    }
    with atomic_folder(folder) as temporary:
        _write(temporary, "adapter_config.json", ("adapter.safetensors", "pytorch_adapter.bin"), config, about, tensors)
        if head is not None:
            names = ("model_head.safetensors", "pytorch_model_head.bin")
            _write(temporary, "head_config.json", names, head[0], about, head[1])
    return out.notes


def _write(
    folder: Path,
    name: str,
    weights: tuple[str, str],
    config: Mapping[str, Any],
    about: Mapping[str, Any],
    tensors: Named,
) -> None:
    import torch
    from safetensors.torch import save_file

    text = json.dumps({"config": config, **about}, indent=2, sort_keys=True)
    (folder / name).write_text(f"{text}\n", encoding="utf-8")
    plain = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
    save_file(plain, folder / weights[0])
    torch.save(plain, folder / weights[1])


def _family(out: Outgoing) -> str:
    """Return the prefix of a model's class names: Bert, GPT2, ..."""
    name = type(head_layouts.config_of(out.backbone)).__name__
    return name.removesuffix("Config")


def _part(
    out: Outgoing, name: str, options: Mapping[str, Any], tensors: dict[str, Named]
) -> tuple[dict[str, Any], Named]:
    writers = {"bottleneck": _bottleneck, "prefix": _prefix, "lora": _lora, "dora": _lora, "ia3": _ia3}
    if name not in writers:
        raise refuse(f"the method {name}", "AdapterHub has none that computes the same")
    return writers[name](out, options, tensors)


# --------------------------------------------------------------------------------------- where


def _left_out(out: Outgoing, ports: list[Port], roles: set[str]) -> list[int]:
    """Return the layers without the adapter; raise :class:`UsageError` if the roles differ between layers."""
    candidates = [port for port in out.backbone.ports if port.kind == ports[0].kind and port.role in roles]
    inside = {counted(port, out.backbone) for port in ports}
    odd = next((port.name for port in candidates if counted(port, out.backbone) in inside and port not in ports), None)
    if odd is not None:
        raise refuse("this adapter", f"in AdapterHub it would act at {odd} too, where it does not")
    return sorted({counted(port, out.backbone) for port in candidates} - inside)


# --------------------------------------------------------------------------------------- methods


def _bottleneck(out: Outgoing, options: Mapping[str, Any], tensors: dict[str, Named]) -> tuple[dict[str, Any], Named]:
    ports = [out.port(place) for place in tensors]
    stored: Named = {}
    for port in ports:
        maps, path = tensors[port.name], f"{_owner(out, port)}.adapters.{NAME}"
        stored |= {
            f"{path}.adapter_down.0.weight": maps["down"],
            f"{path}.adapter_down.0.bias": maps["down_bias"],
            f"{path}.adapter_up.weight": maps["up"],
            f"{path}.adapter_up.bias": maps["up_bias"],
        }
    width = next(iter(tensors.values()))["down"].shape[0]
    config = {
        **{flag: any(port.role == role for port in ports) for role, flag in FLAGS.items()},
        "leave_out": _left_out(out, ports, {port.role for port in ports}),
        "reduction_factor": _reduction(out.backbone.width, width),
        "non_linearity": FUNCTIONS[options["activation"]],
        "scaling": float(options["scale"]),
        "dropout": options["dropout"],
        **_wiring(out, options, ports),
    }
    return config, stored


def _owner(out: Outgoing, port: Port) -> str:
    """Return the path of the module with a bottleneck."""
    kind = out.backbone.architecture
    parts = port.module.split(".")
    if kind in IN_BLOCK:
        return ".".join(parts[:-1])
    if kind in IN_LAYER:
        return ".".join(parts[: parts.index("layer") + 2])
    last = max(number for number, part in enumerate(parts) if part.isdigit())
    return ".".join([*parts[: last + 1], OWNERS[port.role]])


def _wiring(out: Outgoing, options: Mapping[str, Any], ports: list[Port]) -> dict[str, Any]:
    """Return AdapterHub's options for the input and the addition of a bottleneck."""
    wired = {"original_ln_before": False, "original_ln_after": True, "is_parallel": options["parallel"]}
    wired |= {"residual_before_ln": True, "ln_before": False, "ln_after": False, "adapter_residual_before_ln": False}
    if options["parallel"]:
        if not options["stream"] and not all(_reads_stream(out, port) for port in ports):
            raise refuse("this parallel bottleneck", "AdapterHub's reads the residual stream (train with --stream)")
        return wired
    if not options["stream"]:
        return wired
    normed = out.backbone.ports.residual(ports[0]).norm is not None
    residual = {"output": True, "sum": "post_add" if normed else False, "norm": False}
    return {**wired, "original_ln_before": True, "residual_before_ln": residual[options["onto"]]}


def _reads_stream(out: Outgoing, port: Port) -> bool:
    """Tell whether the input of a block is the residual stream, as in models with a layer norm after the sum."""
    try:
        return out.backbone.ports.residual(port).norm is not None
    except BackboneError:
        return False


def _reduction(hidden: int, width: int) -> float:
    """Return a reduction factor for this width, which the library computes as ``int(hidden // factor)``."""
    # Rounding errors can make int(hidden // exact) one too small.
    exact = hidden / width
    return exact if int(hidden // exact) == width else hidden / (width + 0.5)


def _lora(out: Outgoing, options: Mapping[str, Any], tensors: dict[str, Named]) -> tuple[dict[str, Any], Named]:
    import torch

    ports, rank = [out.port(place) for place in tensors], options["rank"]
    scale = options["alpha"] / (rank**0.5 if options["rslora"] else rank)
    dora = "magnitude_change" in next(iter(tensors.values()))
    stored: Named = {}
    for port in ports:
        weights, path = tensors[port.name], f"{port.module}.loras.{NAME}"
        if port.role == "qkv":
            if dora:
                raise refuse("DoRA at a fused map", "AdapterHub leaves the magnitudes out there")
            stored[f"{path}.lora_A"] = torch.cat([weights["lora_a"]] * 3)
        else:
            stored[f"{path}.lora_A"] = weights["lora_a"]
        stored[f"{path}.lora_B"] = weights["lora_b"]
        change = weights.get("bias_change")
        if dora:
            stored[f"{path}.m.weight"] = _magnitude(out, port, weights, scale)
        elif change is not None and change.any():
            raise refuse("LoRA with a change of biases", "AdapterHub's has none")
    config = {"architecture": "lora", "composition_mode": "add", "r": rank, "alpha": scale * rank, "use_dora": dora}
    config |= {"dropout": options["dropout"], "init_weights": "lora", "use_gating": False}
    return config | _places(out, ports), stored


def _magnitude(out: Outgoing, port: Port, weights: Named, scale: float) -> "Tensor":
    """Return m such that ``m / |W + B A| * (W x + b + s B A x)`` equals our formula."""
    import torch

    weight, bias = out.backbone.weight(port).float().cpu(), out.backbone.bias(port).float().cpu()
    product = weights["lora_b"].float() @ weights["lora_a"].float()
    plain, unscaled, scaled = (torch.linalg.vector_norm(weight + s * product, dim=1) for s in (0.0, 1.0, scale))
    factor = (plain + weights["magnitude_change"].float()) / scaled
    change = weights.get("bias_change", torch.zeros_like(bias)).float()
    if not torch.allclose(change, (factor - 1) * bias, atol=1e-6):
        raise refuse("this DoRA", "AdapterHub's multiplies the biases with the rows, and this one does not")
    magnitude: Tensor = (factor * unscaled).unsqueeze(1)
    return magnitude


def _ia3(out: Outgoing, options: Mapping[str, Any], tensors: dict[str, Named]) -> tuple[dict[str, Any], Named]:
    ports = [out.port(place) for place in tensors]
    stored: Named = {}
    for port in ports:
        factors = tensors[port.name]
        if "input_factor" in factors:
            raise refuse(f"IA3 at the input of {port.name}", "AdapterHub's has factors on outputs only")
        stored[f"{port.module}.loras.{NAME}.lora_B"] = (1 + factors["output_factor"].float()).unsqueeze(1)
    config = {"architecture": "lora", "composition_mode": "scale", "r": 1, "alpha": 1, "use_dora": False}
    config |= {"dropout": 0.0, "init_weights": "ia3", "use_gating": False}
    return config | _places(out, ports), stored


def _places(out: Outgoing, ports: list[Port]) -> dict[str, Any]:
    """Return the places of a low-rank adapter as options of the library."""
    roles = {port.role for port in ports}
    plain = {role.removeprefix("cross_") for role in roles}
    up, down = ("ffn_down", "ffn_up") if out.backbone.architecture in EXCHANGED else ("ffn_up", "ffn_down")
    if not plain <= {*MATRICES, "qkv", "ffn_up", "ffn_down"}:
        raise refuse(
            f"an adapter at {', '.join(sorted(roles))}", "AdapterHub's acts at q, k, v and the feed-forward maps"
        )
    attention = plain & MATRICES.keys()
    matrices = ["q", "k", "v"] if "qkv" in plain else [MATRICES[role] for role in MATRICES if role in attention]
    everywhere = roles | {f"cross_{role}" for role in attention}
    return {
        "selfattn_lora": bool(matrices),
        "attn_matrices": matrices,
        "intermediate_lora": up in plain,
        "output_lora": down in plain,
        "leave_out": _left_out(out, ports, everywhere),
    }


def _prefix(out: Outgoing, options: Mapping[str, Any], tensors: dict[str, Named]) -> tuple[dict[str, Any], Named]:
    if options["gate"] and any((prefix["prefix_gate"].abs() != 1).any() for prefix in tensors.values()):
        raise refuse("a gated prefix", "AdapterHub's gates depend on the text (train with --no-gate)")
    if options["move"]:
        raise refuse("a prefix that moves positions", "AdapterHub's leaves them where they are")
    if hasattr(head_layouts.config_of(out.backbone), "relative_attention_num_buckets"):
        raise refuse("a prefix in a model with relative positions", "there AdapterHub's moves the text's positions")
    placed: dict[str, list[Port]] = {}
    for place in tensors:
        port = out.port(place)
        placed.setdefault(_location(out, port), []).append(port)
    if out.backbone.encoder_decoder and "self_prefix" not in placed:
        raise refuse("this prefix", "AdapterHub's always acts in the decoder's own attention, too")
    everything = [port for ports in placed.values() for port in ports]
    config = {
        "architecture": "prefix_tuning",
        "flat": True,
        "prefix_length": options["length"],
        "encoder_prefix": "encoder_prefix" in placed or not out.backbone.encoder_decoder,
        "cross_prefix": "cross_prefix" in placed or not out.backbone.encoder_decoder,
        "leave_out": _without_prefix(out, everything),
        "non_linearity": "tanh",
        "bottleneck_size": 512,
        "dropout": 0.0,
        "use_gating": False,
        "shared_gating": True,
    }
    front = f"prefix_tuning.prefix_tunings.{NAME}"
    return config, {f"{front}.{place}.control_trans": _flat(ports, tensors) for place, ports in placed.items()}


def _location(out: Outgoing, port: Port) -> str:
    """Return the library's name for the place of a prefix."""
    if out.backbone.architecture == "distilbert":
        return "self"
    if port.role == "cross_attention":
        return "cross_prefix"
    return "encoder_prefix" if port.stack == "encoder" else "self_prefix"


def _without_prefix(out: Outgoing, ports: list[Port]) -> list[int]:
    """Return the layers without a prefix, among the attention kinds with one."""
    kinds = {(port.stack, port.role) for port in ports}
    candidates = [port for port in out.backbone.ports if (port.stack, port.role) in kinds and port.kind == "attention"]
    inside = {counted(port, out.backbone) for port in ports}
    odd = next((port.name for port in candidates if counted(port, out.backbone) in inside and port not in ports), None)
    if odd is not None:
        raise refuse("this prefix", f"in AdapterHub it would act at {odd} too, where it does not")
    return sorted({counted(port, out.backbone) for port in candidates} - inside)


def _flat(ports: list[Port], tensors: dict[str, Named]) -> "Tensor":
    """Return the keys and values of a place, (layers * 2, H, L, D), flattened in the order L, layers * 2, H, D."""
    import torch

    ordered = sorted(ports, key=lambda port: port.layer)
    pairs = [tensors[port.name][f"prefix_{kind}"] for port in ordered for kind in ("key", "value")]
    return torch.stack(pairs).permute(2, 0, 1, 3).flatten()
