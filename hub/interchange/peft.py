"""Adapters of the library peft, read: LoRA and DoRA, IA3, prefix and prompt tuning, with the heads they save.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``). The tensors tell where an
adapter acts and at which rank; the configuration tells their scale. The formulas are those of peft 0.21
(``tuners/*/layer.py``, ``peft_model.py``). What would act otherwise here, or cannot act, is refused by its name.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.incoming import (
    Finder,
    Headed,
    Imported,
    Named,
    Part,
    build,
    chosen,
    read_json,
    read_tensors,
    refuse,
)
from adaptdock.plugins.contracts import Backbone, Port

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
ROOT = "base_model.model."
TUNED = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|ia3_l)"
    r"(?:\.(?P<kind>weight|bias))?$"
)
BIAS = re.compile(r"(?P<module>.+?)(?:\.base_layer)?\.bias$")
CHANGING = {
    "use_qalora": "it pools what goes into A by groups",
    "alora_invocation_tokens": "it acts only behind certain tokens",
    "layer_replication": "it repeats layers of the model",
    "target_parameters": "it acts on parameters that are no linear maps",
    "trainable_token_indices": "it replaces embeddings of single tokens",
    "use_bdlora": "its factors are stored as blocks",
    "arrow_config": "it routes each token among several adapters",
    "kasa_config": "it rotates the frozen weights",
    "velora_config": "it compresses activations",
    "monteclora_config": "its factors are drawn at random",
    "megatron_config": "its maps are divided among machines",
}
"""Options of LoRA that change what is computed, and how."""
OPTIONS = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "encoder_dropout",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_reparameterization_type",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "feedforward_modules",
        "inference_mode",
        "init_ia3_weights",
        "init_lora_weights",
        "init_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "num_attention_heads",
        "num_layers",
        "num_transformer_submodules",
        "num_virtual_tokens",
        "peft_type",
        "peft_version",
        "prefix_projection",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "token_dim",
        "tokenizer_kwargs",
        "tokenizer_name_or_path",
        "use_dora",
        "use_rslora",
    }
)
"""Options that change nothing which the tensors do not show."""
STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts of LoRA that change the frozen weights, too."""
KNOWN = {
    "LORA": "lora",
    "IA3": "ia3",
    "PREFIX_TUNING": "prefix",
    "PROMPT_TUNING": "prompt",
    "P_TUNING": "prompt",
}


def is_peft(folder: Path) -> bool:
    """Tell whether a folder holds an adapter of peft."""
    return (folder / CONFIG).is_file() and "peft_type" in read_json(folder / CONFIG)


def read_peft(folder: Path, backbone: Backbone, name: str, labels: tuple[str, ...] = ()) -> Imported:
    """Read an adapter of peft for the backbone that it was trained on.

    ``labels`` name the classes of its head; without them they are the configuration's. Raises :class:`FileError` for a
    damaged folder, and :class:`UsageError` with the reason for what cannot be carried over.
    """
    config = read_json(folder / CONFIG)
    kind = str(config.get("peft_type"))
    if kind not in KNOWN:
        raise refuse(f"the PEFT type {kind}", f"there is a method for none but {', '.join(KNOWN)}")
    tensors = read_tensors(folder, WEIGHTS)
    notes: list[str] = []
    rest = {key.removeprefix(ROOT): tensor for key, tensor in tensors.items()}
    weights = head_layouts.HeadWeights(backbone, rest)
    if kind == "LORA":
        parts = _lora(config, rest, backbone, weights)
    elif kind == "IA3":
        parts = _ia3(rest, backbone)
    else:
        parts = [_prefix(config, rest, backbone) if kind == "PREFIX_TUNING" else _prompt(config, rest, backbone)]
    front = int(parts[0].options["length"]) if kind in ("PROMPT_TUNING", "P_TUNING") else 0
    head = _head(config, backbone, weights, labels, front, notes)
    _check_used(rest, weights, backbone)
    unknown = sorted(config.keys() - OPTIONS - CHANGING.keys())
    notes += [f"the configuration's {key!r} is none of the options of peft that are known here" for key in unknown]
    origin = {
        "library": "peft",
        "version": config.get("peft_version"),
        "type": kind,
        "base_model": config.get("base_model_name_or_path"),
    }
    made = build(backbone, name, parts, head, {key: value for key, value in origin.items() if value})
    return Imported(made, notes)


# --------------------------------------------------------------------------------------------- lora


def _lora(config: Mapping[str, Any], rest: Named, backbone: Backbone, weights: head_layouts.HeadWeights) -> list[Part]:
    for option, why in CHANGING.items():
        if config.get(option):
            raise refuse(f"LoRA with {option}", why)
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(STARTS):
        raise refuse(
            f"LoRA that started as {start}",
            "peft changes the frozen weights when it loads one. Save it with path_initial_model_for_weight_conversion",
        )
    finder, found = Finder(backbone.ports, "LoRA"), _by_module(rest)
    placed: dict[Port, tuple[str, Named]] = {}
    for module, named in found.items():
        if "lora_embedding_A" in named:
            raise refuse(f"LoRA at {module}", "the embeddings are no linear map, and no port")
        port = finder.port(module)
        if port is not None:
            placed[port] = (module, named)
        elif _is_head(module, backbone) and "lora_magnitude_vector" not in named:
            weights.updates[module] = _scale(config, module, named) * _product(named)
        else:
            raise refuse(f"LoRA at {module}", f"{backbone.architecture!r} has no port there that an adapter can act at")
    biases = _biases(rest, placed, finder, backbone)
    if not placed:
        raise refuse("this LoRA", "it has no tensors at any linear map of the backbone")
    return [_lora_part(config, placed, biases, backbone)]


def _lora_part(
    config: Mapping[str, Any],
    placed: Mapping[Port, tuple[str, Named]],
    biases: Mapping[Port, "Tensor"],
    backbone: Backbone,
) -> Part:
    import torch

    rank = max(named["lora_A"].shape[0] for _, named in placed.values())
    rslora, dora = bool(config.get("use_rslora")), bool(config.get("use_dora"))
    alpha = float(config.get("lora_alpha", 8))
    common = alpha / (rank**0.5 if rslora else rank)
    biased = bool(biases) or any("lora_B.bias" in named for _, named in placed.values())
    tensors: dict[str, Named] = {}
    for port, (module, named) in placed.items():
        down, up = _shaped(port, module, named)
        scale = _scale(config, module, named)
        if scale != common:
            up = up.float() * (scale / common)
        own = {"lora_a": _grown(down, 0, rank), "lora_b": _grown(up, 1, rank)}
        if biased:
            zero = torch.zeros(port.outputs)
            own["bias_change"] = biases.get(port, zero) + scale * named.get("lora_B.bias", zero).float()
        if dora:
            magnitude = named.get("lora_magnitude_vector")
            if magnitude is None:
                raise refuse(f"DoRA at {module}", "its magnitude vector is missing")
            lengths = torch.linalg.vector_norm(backbone.weight(port).float().cpu(), dim=1)
            own["magnitude_change"] = magnitude.float().flatten() - lengths
        tensors[port.name] = own
    options = {"rank": rank, "alpha": alpha, "rslora": rslora, "bias": biased, "dropout": config.get("lora_dropout", 0)}
    return Part("dora" if dora else "lora", options | chosen(backbone.ports, list(placed)), tensors)


def _by_module(rest: Named) -> dict[str, Named]:
    """Divide the tensors of a tuner by the module that they belong to."""
    found: dict[str, Named] = {}
    for key in list(rest):
        match = TUNED.match(key)
        if match is not None:
            part = match["part"] + (".bias" if match["kind"] == "bias" else "")
            found.setdefault(match["module"], {})[part] = rest.pop(key)
    return found


def _shaped(port: Port, module: str, named: Named) -> "tuple[Tensor, Tensor]":
    if "lora_A" not in named or "lora_B" not in named:
        raise refuse(f"LoRA at {module}", "one of its two factors is missing")
    down, up = named["lora_A"], named["lora_B"]
    wanted, shapes = (port.inputs, port.outputs), (down.shape[-1], up.shape[0])
    if down.ndim != 2 or up.ndim != 2 or shapes != wanted or down.shape[0] != up.shape[1]:
        raise refuse(
            f"LoRA at {module}",
            f"its factors are {tuple(up.shape)} and {tuple(down.shape)}, the backbone's map {wanted[::-1]}: it was "
            f"trained on another backbone",
        )
    return down, up


def _scale(config: Mapping[str, Any], module: str, named: Named) -> float:
    """Return alpha / rank of a module, or alpha / sqrt(rank); patterns match the end of its path."""
    alpha, rank = float(config.get("lora_alpha", 8)), named["lora_A"].shape[0]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _product(named: Named) -> "Tensor":
    product: Tensor = named["lora_B"].float() @ named["lora_A"].float()
    return product


def _grown(tensor: "Tensor", dimension: int, extent: int) -> "Tensor":
    from torch.nn import functional

    missing = extent - tensor.shape[dimension]
    return tensor if not missing else functional.pad(tensor, (0, missing) if dimension else (0, 0, 0, missing))


def _biases(rest: Named, placed: Mapping[Port, Any], finder: Finder, backbone: Backbone) -> "dict[Port, Tensor]":
    """Return by how much trained biases of linear ports differ from the frozen ones; others must not have changed."""
    changes: dict[Port, Tensor] = {}
    for key in list(rest):
        match = BIAS.match(key)
        if match is None or _is_head(match["module"], backbone):
            continue
        port = finder.port(match["module"])
        tensor = rest[key]
        trained = tensor.float()
        frozen = backbone.bias(port).float().cpu() if port is not None else _frozen(key, backbone)
        if frozen is None or frozen.shape != trained.shape:
            continue
        del rest[key]
        if port in placed:
            assert port is not None
            changes[port] = trained - frozen
        elif not tensor.equal(frozen.to(tensor.dtype)):
            raise refuse(f"the trained bias {key}", "only those of the maps that LoRA acts at can be carried")
    return changes


def _frozen(key: str, backbone: Backbone) -> "Tensor | None":
    return next(
        (
            tensor.detach().float().cpu()
            for name, tensor in backbone.model.named_parameters()
            if key == name or key.endswith(f".{name}")
        ),
        None,
    )


# ---------------------------------------------------------------------------------------------- ia3


def _ia3(rest: Named, backbone: Backbone) -> list[Part]:
    finder = Finder(backbone.ports, "IA3")
    tensors: dict[str, Named] = {}
    leaving: list[Port] = []
    entering: list[Port] = []
    for module, named in _by_module(rest).items():
        port, factor = finder.port(module), named["ia3_l"]
        if port is None:
            raise refuse(f"IA3 at {module}", f"{backbone.architecture!r} has no port there that an adapter can act at")
        enters = factor.shape[0] == 1
        if factor.numel() != (port.inputs if enters else port.outputs):
            raise refuse(f"IA3 at {module}", f"it has {factor.numel()} factors: it was trained on another backbone")
        (entering if enters else leaving).append(port)
        tensors[port.name] = {f"{'input' if enters else 'output'}_factor": factor.float().flatten() - 1}
    if not tensors:
        raise refuse("this IA3", "it has no tensors at any linear map of the backbone")
    return [Part("ia3", _ia3_options(backbone, leaving, entering), tensors)]


def _ia3_options(backbone: Backbone, leaving: list[Port], entering: list[Port]) -> dict[str, Any]:
    """Return options with which IA3 acts at the outputs of some ports and the inputs of others."""
    out, inner = (chosen(backbone.ports, ports) if ports else {} for ports in (leaving, entering))
    layers = {part["layers"] for part in (out, inner) if part}
    if len(layers) == 1:
        roles = {"roles": out.get("roles", ()), "input_roles": inner.get("roles", ()), "layers": layers.pop()}
    else:
        roles = {"roles": _names(leaving), "input_roles": _names(entering)}
    return {"feed_forward": False, **roles}


def _names(ports: Iterable[Port]) -> tuple[str, ...]:
    return tuple(port.name for port in ports)


# ----------------------------------------------------------------------------- prefixes and prompts


def _prefix(config: Mapping[str, Any], rest: Named, backbone: Backbone) -> Part:
    own = head_layouts.config_of(backbone)
    if backbone.encoder_decoder:
        raise refuse(
            "prefix tuning of an encoder-decoder",
            "peft puts it into the decoder's caches, where it gets relative positions and hides the encoder",
        )
    if getattr(own, "sliding_window", None) and getattr(own, "use_sliding_window", True):
        raise refuse("prefix tuning with sliding windows", "peft's prefix leaves the window, ours never does")
    table = _taken(rest, "prompt_embeddings", "prefix tuning")
    ports = backbone.ports.select("attention", ("attention",))
    heads, width = ports[0].heads, ports[0].key_width
    length, extent = table.shape
    if extent != len(ports) * 2 * heads * width or ports[0].value_width != width:
        raise refuse(
            "prefix tuning", f"its table is {extent} wide, and not that of {len(ports)} layers of this backbone"
        )
    # (L, layers, key or value, H, D) -> layers, key or value, H, L, D
    split = table.view(length, len(ports), 2, heads, width).permute(1, 2, 3, 0, 4)
    ordered = sorted(ports, key=lambda port: port.layer)
    tensors = {
        port.name: {"prefix_key": split[number, 0], "prefix_value": split[number, 1]}
        for number, port in enumerate(ordered)
    }
    return Part("prefix", {"length": length, "gate": False, "move": True}, tensors)


def _prompt(config: Mapping[str, Any], rest: Named, backbone: Backbone) -> Part:
    table = _taken(rest, "prompt_embeddings", "prompt tuning")
    (port,) = backbone.ports.select("embedding", ("all",))
    length = int(config.get("num_virtual_tokens") or table.shape[0])
    if table.shape[-1] != port.outputs or length > table.shape[0]:
        raise refuse("prompt tuning", f"its table is {tuple(table.shape)}, embeddings here are {port.outputs} wide")
    # an encoder-decoder's table has the same number again for the decoder, which peft never shows to it
    return Part("prompt", {"length": length}, {port.name: {"prompt": table[:length].clone()}})


def _taken(rest: Named, key: str, owner: str) -> "Tensor":
    if key not in rest:
        raise refuse(owner, f"the tensor {key!r} is missing")
    return rest.pop(key)


# --------------------------------------------------------------------------------------------- head


def _head(
    config: Mapping[str, Any],
    backbone: Backbone,
    weights: head_layouts.HeadWeights,
    labels: tuple[str, ...],
    front: int,
    notes: list[str],
) -> Headed:
    kind = config.get("task_type") or _guessed(config, weights)
    if kind in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return Headed("generation")
    if kind in (None, "FEATURE_EXTRACTION"):
        return Headed("embedding")
    own = head_layouts.config_of(backbone)
    if kind == "QUESTION_ANS":
        layout = head_layouts.Layout("", (), "qa_outputs")
        return Headed("qa", {}, head_layouts.read_layout(weights, layout, "the head"))
    if kind == "SEQ_CLS":
        layout = head_layouts.sequence_layout(backbone)
        tensors = head_layouts.read_layout(weights, layout, "the head")
        seen = front if layout.reads == "first" else 0
        options = {"pooling": layout.reads, "hidden_layers": head_layouts.functions(layout), "reads_prompt": seen}
        if front and layout.reads == "last":
            notes.append("behind a prompt peft reads the last state even of a padded text; here it is the last token's")
        names = _named(backbone, tensors, labels, notes)
        several = getattr(own, "problem_type", None) == "multi_label_classification"
        return head_layouts.sequence_head(names, several, options, tensors)
    if kind == "TOKEN_CLS":
        last = "classifier" if any("classifier" in key for key in weights.saved) else "score"
        if backbone.architecture == "modernbert":
            raise refuse("a head of modernbert", "its layers are not known here")
        tensors = head_layouts.read_layout(weights, head_layouts.Layout("", (), last), "the head")
        return head_layouts.token_head(_named(backbone, tensors, labels, notes), {}, tensors)
    raise refuse(f"the task type {kind}", "there is no task for it")


def _named(backbone: Backbone, tensors: Named, labels: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
    names, known = head_layouts.labels_of(backbone, tensors["weight"].shape[0], labels)
    if not known and len(names) > 1:
        notes.append(f"the classes have no names in the backbone's configuration; they are called {names[0]}, ...")
    return names


def _guessed(config: Mapping[str, Any], weights: head_layouts.HeadWeights) -> str | None:
    """Return the task type that the model's class or the saved head tells, where the configuration does not."""
    of_class = str((config.get("auto_mapping") or {}).get("base_model_class", ""))
    for ending, kind in (
        ("ForSequenceClassification", "SEQ_CLS"),
        ("ForTokenClassification", "TOKEN_CLS"),
        ("ForQuestionAnswering", "QUESTION_ANS"),
        ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
        ("LMHeadModel", "CAUSAL_LM"),
        ("ForCausalLM", "CAUSAL_LM"),
    ):
        if of_class.endswith(ending):
            return kind
    if any("qa_outputs" in key for key in weights.saved):
        return "QUESTION_ANS"
    if any("classifier" in key or key.startswith("score.") for key in weights.saved):
        return "SEQ_CLS"
    return "CAUSAL_LM" if getattr(weights.backbone, "generator", None) is not None else None


def _is_head(module: str, backbone: Backbone) -> bool:
    layout = head_layouts.SEQUENCE.get(backbone.architecture, head_layouts.LAST)
    names: Iterable[str] = (layout.last, "classifier", "score", "qa_outputs", *(name for name, _ in layout.layers))
    return any(module == name or module.endswith(f".{name}") for name in names)


def _check_used(rest: Named, weights: head_layouts.HeadWeights, backbone: Backbone) -> None:
    """Raise :class:`UsageError` for a saved tensor that nothing here takes, unless it is the frozen one."""
    if weights.updates:
        raise refuse(f"LoRA at {next(iter(weights.updates))}", "the task of this adapter has no such head")
    for key, tensor in rest.items():
        frozen = None if key in weights.used else _frozen(key, backbone)
        if key not in weights.used and (frozen is None or not tensor.float().equal(frozen)):
            raise refuse(f"the trained module of the tensor {key!r}", "the adapter file has no place for it")
