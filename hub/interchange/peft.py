"""Import from peft: LoRA, DoRA, IA3, prefix and prompt tuning, with the saved heads.

A folder has ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``). The tensors show the places of an
adapter; the configuration has rank, scale and places, and must agree. The formulas are those of peft 0.21
(``tuners/*/layer.py``, ``peft_model.py``). An option that would compute something else here is refused by name, and so
is every unused tensor.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.incoming import (
    Finder,
    Imported,
    Part,
    base_note,
    build,
    port_selection,
    read_json,
    unknown_notes,
)
from adaptdock.hub.interchange.incoming_tensors import (
    ForeignTensors,
    ModuleTensors,
    Named,
    contradiction,
    read_tensors,
    refuse,
)
from adaptdock.hub.interchange.peft_config import Ia3Options, LoraOptions, PeftOptions, TunerOptions, VirtualOptions
from adaptdock.hub.interchange.peft_heads import check_unused, frozen, is_head, read_head
from adaptdock.plugins.contracts import Backbone, Port

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
ROOT = "base_model.model."
TUNED = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_[AB]\.(?:weight|bias)|lora_embedding_[AB]|lora_magnitude_vector(?:\.weight)?|ia3_l)"
)
BIAS = re.compile(r"(?P<module>.+?)(?:\.base_layer)?\.bias")
KNOWN: dict[str, type[PeftOptions]] = {
    "LORA": LoraOptions,
    "IA3": Ia3Options,
    "PREFIX_TUNING": VirtualOptions,
    "PROMPT_TUNING": VirtualOptions,
    "P_TUNING": VirtualOptions,
}


def is_peft(folder: Path) -> bool:
    """Tell whether a folder has an adapter of peft."""
    return (folder / CONFIG).is_file() and "peft_type" in read_json(folder / CONFIG)


def read_peft(folder: Path, backbone: Backbone, name: str, labels: tuple[str, ...] = ()) -> Imported:
    """Read an adapter of peft for its backbone.

    ``labels`` name the classes of its head; by default the configuration does. Raises :class:`FileError` for a damaged
    folder, and :class:`UsageError` with the reason for an unsupported adapter.
    """
    values = read_json(folder / CONFIG)
    kind = values.get("peft_type")
    if not isinstance(kind, str) or kind not in KNOWN:
        raise refuse(f"the PEFT type {kind!r}", f"there is a method for none but {', '.join(KNOWN)}")
    options = KNOWN[kind].parse(values, folder / CONFIG)
    tensors = read_tensors(folder, WEIGHTS, ROOT)
    notes = base_note(options.base_model_name_or_path, backbone)
    changes: dict[str, head_layouts.Change] = {}
    if isinstance(options, LoraOptions):
        part = _lora(options, tensors, backbone, changes, notes)
    elif isinstance(options, Ia3Options):
        part = _ia3(options, tensors, backbone, changes, notes)
    else:
        assert isinstance(options, VirtualOptions)
        read = _prefix if kind == "PREFIX_TUNING" else _prompt
        part = read(options, tensors, backbone)
    front = int(part.options["length"]) if part.method == "prompt" else 0
    head = read_head(options, backbone, tensors, changes, labels, front, notes)
    check_unused(tensors, backbone)
    notes += unknown_notes(options.unknown, "peft")
    origin = {
        "library": "peft",
        "version": options.peft_version,
        "type": kind,
        "base_model": options.base_model_name_or_path,
    }
    file = build(backbone, name, [part], head, {key: value for key, value in origin.items() if value})
    return Imported(file, notes)


# ------------------------------------------------------------------------------------------- places


def _placed(
    options: TunerOptions, modules: Iterable[str], finder: Finder, backbone: Backbone, path: Path, notes: list[str]
) -> dict[str, Port | None]:
    """Return the port of each tuned module, None for modules of a head.

    Raises :class:`UsageError` for any other module, and if configuration and tensors have different places.
    """
    ports = {module: finder.port(module) for module in modules}
    for module, port in ports.items():
        if port is None and not is_head(module, backbone):
            raise refuse(
                f"{finder.owner} at {module}", f"{backbone.architecture!r} has no port there that an adapter can act at"
            )
    if not any(ports.values()):
        raise refuse(f"this {finder.owner}", "it has no tensors at any linear map of the backbone")
    if options.target_modules is None:
        notes.append("the configuration names no target_modules; the adapter acts where its tensors are")
        return ports
    surplus = next((module for module in ports if not options.targets(module)), None)
    if surplus is not None:
        raise contradiction(path, "target_modules", _short(options.target_modules), surplus, "lies elsewhere")
    reached = set(ports.values())
    for port in backbone.ports:
        module = f"{finder.front}{port.module}"
        if port.kind == "linear" and port not in reached and options.targets(module):
            raise contradiction(path, "target_modules", _short(options.target_modules), module, "is missing")
    return ports


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


# --------------------------------------------------------------------------------------------- lora


@dataclass(frozen=True)
class Factors:
    """LoRA tensors of a module: A (rank, inputs), B (outputs, rank), its bias, and DoRA's lengths (outputs)."""

    down: "Tensor"
    up: "Tensor"
    bias: "Tensor | None"
    magnitude: "Tensor | None"
    scale: float

    def change(self, weight: "Tensor", bias: "Tensor") -> "tuple[Tensor, Tensor]":
        """Return weight and bias of a linear map of a head, with the update added."""
        import torch

        if (self.up.shape[0], self.down.shape[1]) != tuple(weight.shape):
            shapes = f"{tuple(self.up.shape)} and {tuple(self.down.shape)}"
            raise refuse("LoRA at the head", f"its factors are {shapes}, the map {tuple(weight.shape)}")
        moved = weight + self.scale * (self.up.float() @ self.down.float())
        if self.magnitude is not None:
            lengths = torch.linalg.vector_norm(moved, dim=1)
            moved = moved * (self.magnitude.float() / lengths).unsqueeze(1)
        return moved, bias if self.bias is None else bias + self.scale * self.bias.float()


def _lora(
    options: LoraOptions,
    tensors: ForeignTensors,
    backbone: Backbone,
    changes: dict[str, head_layouts.Change],
    notes: list[str],
) -> Part:
    options.check_carried()
    if options.lora_bias and options.use_dora:
        raise refuse("LoRA with lora_bias and use_dora", "peft has no adapter with both")
    finder, modules = Finder(backbone.ports, "LoRA"), tensors.modules(TUNED)
    embedded = next((module for module, group in modules.items() if "lora_embedding_A" in group), None)
    if embedded is not None:
        raise refuse(f"LoRA at {embedded}", "the embeddings are no linear map, and no port")
    ports = _placed(options, modules, finder, backbone, tensors.path, notes)
    factors: dict[Port, Factors] = {}
    for module, port in ports.items():
        update = _factors(options, modules[module], port, tensors.path)
        if port is None:
            changes[module] = update.change
        else:
            factors[port] = update
    biases = _biases(options, tensors, factors, finder, backbone, notes)
    return _lora_part(options, factors, biases, backbone)


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


def _lora_part(
    options: LoraOptions, placed: Mapping[Port, Factors], biases: Mapping[Port, "Tensor"], backbone: Backbone
) -> Part:
    import torch

    rank = max(factors.down.shape[0] for factors in placed.values())
    alpha = options.lora_alpha if options.lora_alpha > 0 else float(rank)  # our scale must be positive: B gets the sign
    common = alpha / (rank**0.5 if options.use_rslora else rank)
    biased = bool(biases) or bool(options.lora_bias)
    tensors: dict[str, Named] = {}
    for port, factors in placed.items():
        up = factors.up if factors.scale == common else factors.up.float() * (factors.scale / common)
        pair = {"lora_a": _grown(factors.down, 0, rank), "lora_b": _grown(up, 1, rank)}
        if biased:
            zero = torch.zeros(port.outputs)
            pair["bias_change"] = biases.get(port, zero)
            if factors.bias is not None:
                pair["bias_change"] = pair["bias_change"] + factors.scale * factors.bias.float()
        if factors.magnitude is not None:
            lengths = torch.linalg.vector_norm(backbone.weight(port).float().cpu(), dim=1)
            pair["magnitude_change"] = factors.magnitude.float() - lengths
        tensors[port.name] = pair
    method = "dora" if options.use_dora else "lora"
    values = {"rank": rank, "alpha": alpha, "rslora": bool(options.use_rslora), "bias": biased}
    values["dropout"] = options.lora_dropout
    return Part(method, values | port_selection(backbone.ports, list(placed)), tensors)


def _grown(tensor: "Tensor", dimension: int, extent: int) -> "Tensor":
    from torch.nn import functional

    missing = extent - tensor.shape[dimension]
    return tensor if not missing else functional.pad(tensor, (0, missing) if dimension else (0, 0, 0, missing))


def _biases(
    options: LoraOptions,
    tensors: ForeignTensors,
    placed: Mapping[Port, Any],
    finder: Finder,
    backbone: Backbone,
    notes: list[str],
) -> "dict[Port, Tensor]":
    """Return the differences of trained biases from frozen biases at linear ports; other biases must be unchanged."""
    changes: dict[Port, Tensor] = {}
    for name in list(tensors.unused):
        match = BIAS.fullmatch(name)
        if match is None or is_head(match["module"], backbone) or f"{match['module']}.weight" in tensors.names:
            continue
        port = finder.port(match["module"])
        trained = tensors.unused[name]
        bias = backbone.bias(port).float().cpu() if port is not None else frozen(name, backbone)
        if bias is None or bias.shape != trained.shape:
            continue
        if port is not None and port in placed:
            changes[port] = tensors.take(name).float() - bias
        elif not trained.equal(bias.to(trained.dtype)):
            raise refuse(f"the trained bias {name}", "only biases of maps with LoRA can be imported")
        else:
            tensors.take(name)
    if options.bias == "none" and any(change.any() for change in changes.values()):
        notes.append("the configuration's bias is 'none', and biases were saved: as in peft, they count")
    if options.bias != "none":
        biased = {name for name, _ in backbone.model.named_parameters()}
        lacking = (port for port in placed if port not in changes and f"{port.module}.bias" in biased)
        for port in lacking:
            name = f"{finder.front}{port.module}.base_layer.bias"
            raise contradiction(tensors.path, "bias", repr(options.bias), name, "is missing")
    return changes


# ---------------------------------------------------------------------------------------------- ia3


def _ia3(
    options: Ia3Options,
    tensors: ForeignTensors,
    backbone: Backbone,
    changes: dict[str, head_layouts.Change],
    notes: list[str],
) -> Part:
    finder, modules = Finder(backbone.ports, "IA3"), tensors.modules(TUNED)
    placed: dict[str, Named] = {}
    leaving: list[Port] = []
    entering: list[Port] = []
    for module, port in _placed(options, modules, finder, backbone, tensors.path, notes).items():
        group = modules[module]
        shape = group.shape("ia3_l")
        enters = len(shape) == 2 and shape[0] == 1 and not (shape[1] == 1 and options.enters(module) is False)
        if options.enters(module) not in (None, enters):
            wanted = _short(options.feedforward_modules)
            side = "what the map reads" if enters else "what it gives"
            state = f"has the shape {shape}: factors on {side}"
            raise contradiction(tensors.path, "feedforward_modules", wanted, group.name("ia3_l"), state)
        if len(shape) != 2 or 1 not in shape:
            raise refuse(f"IA3 at {module}", f"its factors have the shape {shape}, and not (outputs, 1) or (1, inputs)")
        factor = group.take("ia3_l").float()
        if port is None:
            changes[module] = _scaled(factor, enters)
            continue
        if factor.numel() != (port.inputs if enters else port.outputs):
            raise refuse(f"IA3 at {module}", f"it has {factor.numel()} factors: it was trained on another backbone")
        (entering if enters else leaving).append(port)
        placed[port.name] = {f"{'input' if enters else 'output'}_factor": factor.flatten() - 1}
    return Part("ia3", _ia3_options(backbone, leaving, entering), placed)


def _scaled(factor: "Tensor", enters: bool) -> head_layouts.Change:
    """Return the change of a head's map by factors on its outputs (outputs, 1) or on its inputs (1, inputs)."""

    def change(weight: "Tensor", bias: "Tensor") -> "tuple[Tensor, Tensor]":
        if factor.numel() != weight.shape[1 if enters else 0]:
            raise refuse("IA3 at the head", f"it has {factor.numel()} factors, the map is {tuple(weight.shape)}")
        return weight * factor, bias if enters else bias * factor.flatten()

    return change


def _ia3_options(backbone: Backbone, leaving: list[Port], entering: list[Port]) -> dict[str, Any]:
    """Return options of IA3 for the outputs of some ports and the inputs of others."""
    out, inner = (port_selection(backbone.ports, ports) if ports else {} for ports in (leaving, entering))
    layers = {part["layers"] for part in (out, inner) if part}
    if len(layers) == 1:
        roles = {"roles": out.get("roles", ()), "input_roles": inner.get("roles", ()), "layers": layers.pop()}
    else:
        roles = {"roles": _names(leaving), "input_roles": _names(entering)}
    return {"feed_forward": False, **roles}


def _names(ports: Iterable[Port]) -> tuple[str, ...]:
    return tuple(port.name for port in ports)


# ----------------------------------------------------------------------------- prefixes and prompts


def _prefix(options: VirtualOptions, tensors: ForeignTensors, backbone: Backbone) -> Part:
    config = head_layouts.config_of(backbone)
    if backbone.encoder_decoder:
        raise refuse(
            "prefix tuning of an encoder-decoder",
            "peft puts it into the decoder's caches, where it gets relative positions and hides the encoder",
        )
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise refuse("prefix tuning with sliding windows", "peft's prefix leaves the window, ours never does")
    ports = sorted(backbone.ports.select("attention", ("attention",)), key=lambda port: port.layer)
    heads, width, length = ports[0].heads, ports[0].key_width, options.num_virtual_tokens
    if ports[0].value_width != width:
        raise refuse("prefix tuning", f"the keys here are {width} wide, the values {ports[0].value_width}")
    for option, configured, here in (
        ("num_layers", options.num_layers, len(ports)),
        ("num_attention_heads", options.num_attention_heads, heads),
        ("token_dim", options.token_dim, heads * width),
    ):
        if configured not in (None, here):
            raise refuse("prefix tuning", f"{option} is {configured} in the configuration, and {here} on this backbone")
    table = _table(options, tensors, length, len(ports) * 2 * heads * width)
    # (L, layers, key or value, H, D) -> layers, key or value, H, L, D
    split = table.view(length, len(ports), 2, heads, width).permute(1, 2, 3, 0, 4)
    pairs = {
        port.name: {"prefix_key": split[number, 0], "prefix_value": split[number, 1]}
        for number, port in enumerate(ports)
    }
    return Part("prefix", {"length": length, "gate": False, "move": True}, pairs)


def _prompt(options: VirtualOptions, tensors: ForeignTensors, backbone: Backbone) -> Part:
    (port,) = backbone.ports.select("embedding", ("all",))
    if options.token_dim not in (None, port.outputs):
        raise refuse(
            "prompt tuning",
            f"token_dim is {options.token_dim} in the configuration, and embeddings are {port.outputs} wide here",
        )
    halves = options.num_transformer_submodules or (2 if options.task_type == "SEQ_2_SEQ_LM" else 1)
    table = _table(options, tensors, options.num_virtual_tokens * halves, port.outputs)
    # an encoder-decoder's table has the same number again for the decoder, which peft never shows to it
    prompt = table[: options.num_virtual_tokens].clone()
    return Part("prompt", {"length": options.num_virtual_tokens}, {port.name: {"prompt": prompt}})


def _table(options: VirtualOptions, tensors: ForeignTensors, rows: int, width: int) -> "Tensor":
    """Take the table of virtual tokens (rows, width)."""
    table = tensors.take("prompt_embeddings")
    if table.ndim != 2 or table.shape[1] != width:
        raise refuse(
            "the tensor 'prompt_embeddings'", f"its shape is {tuple(table.shape)}, and rows are {width} wide here"
        )
    if len(table) != rows:
        wanted = f"{options.num_virtual_tokens}"
        if rows != options.num_virtual_tokens:
            wanted += f" for each of {rows // options.num_virtual_tokens} halves of the model"
        raise contradiction(tensors.path, "num_virtual_tokens", wanted, "prompt_embeddings", f"has {len(table)} rows")
    return table
