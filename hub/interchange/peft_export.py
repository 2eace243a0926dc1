"""Export to peft, so that peft itself and servers (vLLM, TGI) load the folder.

The folder has ``adapter_config.json`` and ``adapter_model.safetensors``. peft wraps the transformers class for the
adapter's task, and its head is saved too. If that class computes another head than ours, the export refuses, or writes
the adapter without a head.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.hub.artefact.atomic import atomic_folder
from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.head_layouts import CLASSES, ends
from adaptdock.hub.interchange.incoming_tensors import Named, refuse
from adaptdock.hub.interchange.outgoing import Outgoing, refuse_head
from adaptdock.plugins.contracts import Port
from adaptdock.plugins.toolkit import heads

if TYPE_CHECKING:
    from torch import nn

ROOT = "base_model.model."


def write_peft(out: Outgoing, folder: Path) -> list[str]:
    """Write an adapter in the format of peft, and return notes for the user; raise :class:`UsageError` for a refusal.

    The folder is written atomically.
    """
    if len(out.parts) != 1:
        names = " and ".join(name for name, _, _ in out.parts)
        raise refuse(f"an adapter of {names}", "peft keeps one method in an adapter")
    kind = _task_type(out)
    skeleton = _skeleton(out, kind)
    front = _front(out, skeleton)
    config, tuned = _tuner(out, kind, skeleton, front)
    saved, tensors, updated = _head(out, kind, skeleton, front)
    if updated:
        config, tuned = _tuner(out, kind, skeleton, front, biased=True)
    config |= {
        "task_type": kind,
        "base_model_name_or_path": out.base,
        "revision": out.card.backbone.revision,
        "inference_mode": True,
        "modules_to_save": sorted(saved) or None,
    }
    for path, layer in updated.items():
        config |= _update(out, path, layer, config, skeleton, tuned)
    root = "base_model." if "num_virtual_tokens" in config else ROOT  # prompts and prefixes wrap no modules
    tensors = {f"{root}{name}": tensor for name, tensor in tensors.items()} | tuned
    _write(folder, config, tensors, _readme(out, kind))
    return out.notes


def _write(folder: Path, config: Mapping[str, Any], tensors: Named, readme: str) -> None:
    from safetensors.torch import save_file

    with atomic_folder(folder) as temporary:
        text = json.dumps(config, indent=2, sort_keys=True)
        (temporary / "adapter_config.json").write_text(f"{text}\n", encoding="utf-8")
        contiguous = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
        (temporary / "README.md").write_text(readme, encoding="utf-8")


def _readme(out: Outgoing, kind: str) -> str:
    labels = f", id2label={dict(enumerate(out.labels))}" if out.labels and kind in ("SEQ_CLS", "TOKEN_CLS") else ""
    licence = f"license: {out.card.licence}\n" if out.card.licence else ""
    return (
        f"---\nlibrary_name: peft\nbase_model: {out.base}\n{licence}---\n\n# {out.card.name}\n\n"
        f"{out.card.description}\n\n```python\nfrom peft import PeftModel\nfrom transformers import {CLASSES[kind]}\n\n"
        f"model = {CLASSES[kind]}.from_pretrained({out.base!r}{labels})\n"
        f'model = PeftModel.from_pretrained(model, "this folder")\n```\n'
    )


# -------------------------------------------------------------------------------------------- model


def _task_type(out: Outgoing) -> str:
    head = out.head
    if head is None:
        return "FEATURE_EXTRACTION"
    if isinstance(head, heads.LanguageModelHead):
        return "SEQ_2_SEQ_LM" if out.backbone.encoder_decoder else "CAUSAL_LM"
    if isinstance(head, heads.SpanHead):
        return "QUESTION_ANS"
    if isinstance(head, heads.TokenHead):
        return "TOKEN_CLS"
    if isinstance(head, heads.SequenceHead):
        return "SEQ_CLS"
    if isinstance(head, heads.EmbeddingHead) and head.dimension is None:
        return "FEATURE_EXTRACTION"
    raise refuse_head(out, "transformers has no class with such a head")


def _skeleton(out: Outgoing, kind: str) -> "nn.Module":
    """Return the model for peft to wrap, without weights."""
    model = head_layouts.skeleton(out.backbone, kind, out.classes)
    if model is None:
        raise refuse_head(out, f"transformers has no {CLASSES[kind]} of {out.backbone.architecture!r}")
    return model


def _front(out: Outgoing, skeleton: "nn.Module") -> str:
    """Return the prefix of the body's paths in a model with a head."""
    paths = {path for path, _ in skeleton.named_modules()}
    modules = [port.module for port in out.backbone.ports if port.kind == "linear"]
    for front in ("", f"{getattr(skeleton, 'base_model_prefix', '')}."):
        if all(f"{front}{module}" in paths for module in modules):
            return front
    raise refuse("this adapter", f"the modules of the backbone are not found in {type(skeleton).__name__}")


# --------------------------------------------------------------------------------------------- head


def _head(out: Outgoing, kind: str, skeleton: "nn.Module", front: str) -> tuple[set[str], Named, dict[str, Named]]:
    """Return the modules to save, their tensors by path, and the last map if its class has no bias."""
    if kind not in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
        return set(), {}, {}
    layout = _layout(out, kind, skeleton)
    tensors: Named = {}
    updated: dict[str, Named] = {}
    for number, (module, _) in enumerate(layout.layers):
        layer = {name: out.file.tensors[f"head.hidden{number}_{name}"] for name in ("weight", "bias")}
        if module not in layout.body:
            tensors |= _linear(out, module, layer, skeleton)
        elif not _frozen(out, module, layer):
            tensors |= _linear(out, f"{front}{module}", layer, skeleton)
    last = {name: out.file.tensors[f"head.{name}"] for name in ("weight", "bias")}
    if last["bias"].any() and not _has_bias(skeleton, layout.last):
        updated[layout.last] = last
    else:
        tensors |= _linear(out, layout.last, last, skeleton)
    return {name.removeprefix(front).split(".")[0] for name in tensors}, tensors, updated


def _update(
    out: Outgoing, path: str, layer: Named, config: Mapping[str, Any], skeleton: "nn.Module", stored: Named
) -> dict[str, Any]:
    """Store a map of the head as LoRA with a bias, for a base map without one; return the changed options.

    ``B`` is the identity and ``A`` the whole difference, so the update is exact. With a task type peft would save the
    map in full, so the task type is left out.
    """
    import torch

    frozen = head_layouts.HeadWeights(out.backbone).frozen(f"{path}.weight")
    if config["peft_type"] != "LORA" or config["use_dora"] or frozen is None or frozen.shape != layer["weight"].shape:
        raise refuse_head(out, f"it has a bias, and {path} of {type(skeleton).__name__} has none")
    classes = len(layer["bias"])
    stored[f"{ROOT}{path}.lora_A.weight"] = layer["weight"].float() - frozen.float()
    stored[f"{ROOT}{path}.lora_B.weight"] = torch.eye(classes)
    stored[f"{ROOT}{path}.lora_B.bias"] = layer["bias"].float()
    model = type(skeleton)
    return {
        "target_modules": [*config["target_modules"], path],
        "rank_pattern": {path: classes},
        "alpha_pattern": {path: _int_if_whole(classes**0.5 if config["use_rslora"] else classes)},
        "task_type": None,
        "auto_mapping": {"base_model_class": model.__name__, "parent_library": model.__module__},
    }


def _layout(out: Outgoing, kind: str, skeleton: "nn.Module") -> head_layouts.Layout:
    """Return the head layout of the class; raise :class:`UsageError` if the class computes another head than ours."""
    head = out.head
    if kind == "SEQ_CLS":
        layout = head_layouts.sequence_layout(out.backbone)
        assert isinstance(head, heads.SequenceHead)
        front = out.prompt if layout.reads == "first" else 0
        ours, theirs = (head.pooling, head.layers, head.front), (layout.reads, head_layouts.functions(layout), front)
        if ours != theirs:
            raise refuse_head(
                out,
                f"it reads the {head.pooling} state through {len(head.layers)} layers, {type(skeleton).__name__} the "
                f"{layout.reads} one through {' and '.join(f'{m} ({f})' for m, f in layout.layers) or 'none'}",
            )
        if head.length != "plain":
            raise refuse_head(out, "it reads vectors of one length (--vector-length plain trains one that does not)")
        return layout
    assert isinstance(head, heads.TokenHead)
    if head.layers:
        raise refuse_head(out, f"it has {len(head.layers)} layers before its last map, {type(skeleton).__name__} none")
    last = head_layouts.token_layout(skeleton, kind)
    if last is None:
        raise refuse_head(out, f"the head of {type(skeleton).__name__} is not a linear map")
    return last


def _linear(out: Outgoing, path: str, layer: Named, skeleton: "nn.Module") -> Named:
    if _has_bias(skeleton, path):
        return {f"{path}.{name}": tensor for name, tensor in layer.items()}
    if layer["bias"].any():
        raise refuse_head(out, f"it has a bias, and {path} of {type(skeleton).__name__} has none")
    return {f"{path}.weight": layer["weight"]}


def _has_bias(skeleton: "nn.Module", path: str) -> bool:
    return getattr(skeleton.get_submodule(path), "bias", None) is not None


def _frozen(out: Outgoing, module: str, layer: Named) -> bool:
    """Tell whether a layer equals the frozen layer of the body, in the precision of the stored layer."""
    weights = head_layouts.HeadWeights(out.backbone)
    frozen = {name: weights.frozen(f"{module}.{name}") for name in layer}
    return all(
        frozen_tensor is not None and layer[name].equal(frozen_tensor.to(layer[name].dtype))
        for name, frozen_tensor in frozen.items()
    )


# -------------------------------------------------------------------------------------------- tuner


def _tuner(
    out: Outgoing, kind: str, skeleton: "nn.Module", front: str, biased: bool = False
) -> tuple[dict[str, Any], Named]:
    """Return the tuner's configuration, and its tensors by their names in the file.

    ``biased`` asks for a bias of B at every map: peft has the bias at all maps or at none.
    """
    ((name, options, tensors),) = out.parts
    if name in ("lora", "dora"):
        return _lora(out, name, options, tensors, skeleton, front, biased)
    if name == "ia3":
        return _ia3(tensors, skeleton, front, out)
    if name == "prompt":
        return _prompt(out, kind, options, tensors)
    if name == "prefix":
        return _prefix(out, options, tensors)
    raise refuse(f"the method {name}", "peft has none that computes the same")


def _lora(
    out: Outgoing,
    name: str,
    options: Mapping[str, Any],
    tensors: dict[str, Named],
    skeleton: "nn.Module",
    front: str,
    biased: bool,
) -> tuple[dict[str, Any], Named]:
    ports = [out.port(place) for place in tensors]
    paths = {port: f"{front}{port.module}" for port in ports}
    stored: Named = {}
    for port in ports:
        weights, path = tensors[port.name], f"{ROOT}{paths[port]}"
        stored |= {f"{path}.lora_A.weight": weights["lora_a"], f"{path}.lora_B.weight": weights["lora_b"]}
        if name == "dora":
            lengths = out.backbone.weight(port).float().cpu().norm(dim=1)
            stored[f"{path}.lora_magnitude_vector.weight"] = lengths + weights["magnitude_change"].float()
    config = {
        "peft_type": "LORA",
        "r": options["rank"],
        "lora_alpha": _int_if_whole(options["alpha"]),
        "lora_dropout": options["dropout"],
        "use_rslora": options["rslora"],
        "use_dora": name == "dora",
        "target_modules": _targets(list(paths.values()), skeleton),
        "fan_in_fan_out": all(_is_conv(skeleton, path) for path in paths.values()),
        "bias": "none",
        "init_lora_weights": True,
    }
    if options.get("bias") or biased:
        config |= _biases(out, options, tensors, paths, skeleton, stored, biased)
    return config, stored


def _biases(
    out: Outgoing,
    options: Mapping[str, Any],
    tensors: dict[str, Named],
    paths: Mapping[Port, str],
    skeleton: "nn.Module",
    stored: Named,
    biased: bool,
) -> dict[str, Any]:
    """Store changes of biases: as trained biases of the maps, or as a bias of B if a map has no bias."""
    import torch

    if not biased and all(_has_bias(skeleton, path) for path in paths.values()):
        for port, path in paths.items():
            trained = out.backbone.bias(port).float().cpu() + tensors[port.name]["bias_change"].float()
            stored[f"{ROOT}{path}.base_layer.bias"] = trained
        return {"bias": "lora_only"}
    if "magnitude_change" in next(iter(tensors.values())):
        raise refuse("DoRA with a bias", "some of its maps have none in this architecture")
    scale = options["alpha"] / (options["rank"] ** 0.5 if options["rslora"] else options["rank"])
    for port, path in paths.items():
        change = tensors[port.name].get("bias_change", torch.zeros(port.outputs))
        stored[f"{ROOT}{path}.lora_B.bias"] = change.float() / scale
    return {"lora_bias": True}


def _ia3(tensors: dict[str, Named], skeleton: "nn.Module", front: str, out: Outgoing) -> tuple[dict[str, Any], Named]:
    stored: Named = {}
    paths, entered = [], []
    for place, factors in tensors.items():
        path = f"{front}{out.port(place).module}"
        enters = "input_factor" in factors
        factor = 1 + factors["input_factor" if enters else "output_factor"].float()
        stored[f"{ROOT}{path}.ia3_l"] = factor.unsqueeze(0) if enters else factor.unsqueeze(1)
        paths.append(path)
        if enters:
            entered.append(path)
    targets = _targets(paths, skeleton)
    inner = [name for name in targets if any(ends(path, name) for path in entered)]
    if any(ends(path, name) for name in inner for path in set(paths) - set(entered)):
        targets, inner = sorted(paths), sorted(entered)
    config = {
        "peft_type": "IA3",
        "target_modules": targets,
        "feedforward_modules": inner,
        "fan_in_fan_out": all(_is_conv(skeleton, path) for path in paths),
        "init_ia3_weights": True,
    }
    return config, stored


def _prompt(
    out: Outgoing, kind: str, options: Mapping[str, Any], tensors: dict[str, Named]
) -> tuple[dict[str, Any], Named]:
    import torch

    (prompt,) = tensors.values()
    table = prompt["prompt"]
    halves = 2 if kind == "SEQ_2_SEQ_LM" else 1
    stored = torch.cat([table, torch.zeros_like(table)]) if halves == 2 else table  # peft never shows the second half
    config = {
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "num_virtual_tokens": options["length"],
        "token_dim": table.shape[1],
        "num_transformer_submodules": halves,
        **_sizes(out),
    }
    return config, {"prompt_embeddings": stored}


def _prefix(out: Outgoing, options: Mapping[str, Any], tensors: dict[str, Named]) -> tuple[dict[str, Any], Named]:
    import torch

    if options["gate"] and any((prefix["prefix_gate"].abs() != 1).any() for prefix in tensors.values()):
        raise refuse("a gated prefix", "peft's prefix has no gates (train with --no-gate)")
    if not options.get("move"):
        raise refuse("a prefix that leaves positions alone", "peft's moves the text behind it (train with --move)")
    ports = sorted((out.port(place) for place in tensors), key=lambda port: port.layer)
    if out.backbone.encoder_decoder or len(ports) < out.layers:
        raise refuse("this prefix", "peft's prefix is in every layer of a model with one stack")
    pairs = [tensors[port.name][f"prefix_{kind}"] for port in ports for kind in ("key", "value")]
    table = torch.stack(pairs).permute(2, 0, 1, 3).flatten(1)  # (layers * 2, H, L, D) -> (L, layers * 2 * H * D)
    heads_there, width = ports[0].heads, ports[0].key_width
    config = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": options["length"],
        "prefix_projection": False,
        "encoder_hidden_size": heads_there * width,
        "token_dim": heads_there * width,
        "num_transformer_submodules": 1,
        **_sizes(out),
        "num_attention_heads": heads_there,
    }
    return config, {"prompt_embeddings": table}


def _sizes(out: Outgoing) -> dict[str, Any]:
    config = head_layouts.config_of(out.backbone)
    return {
        "num_layers": getattr(config, "num_hidden_layers", out.layers),
        "num_attention_heads": getattr(config, "num_attention_heads", 1),
    }


# ----------------------------------------------------------------------------------------- targets


def _targets(paths: Sequence[str], skeleton: "nn.Module") -> list[str]:
    """Return the shortest names that select exactly these linear maps of a model, or else their full paths."""
    linear_paths = [path for path, module in skeleton.named_modules() if _is_linear(module)]
    wanted = set(paths)
    for parts in (1, 2):
        names = {".".join(path.split(".")[-parts:]) for path in paths}
        if {path for path in linear_paths if any(ends(path, name) for name in names)} == wanted:
            return sorted(names)
    return sorted(wanted)


def _is_linear(module: "nn.Module") -> bool:
    return type(module).__name__ in ("Linear", "Conv1D", "Embedding", "Conv2d", "Conv1d")


def _is_conv(skeleton: "nn.Module", path: str) -> bool:
    return type(skeleton.get_submodule(path)).__name__ == "Conv1D"


def _int_if_whole(number: float) -> float:
    return int(number) if float(number).is_integer() else number
