"""Export to peft, so that peft itself and servers (vLLM, TGI) load the folder.

The folder has ``adapter_config.json`` and ``adapter_model.safetensors``. peft wraps the transformers class for the
adapter's task, and its head is saved too. If that class computes another head than ours, the export refuses, or writes
the adapter without a head.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.hub.artefact.atomic import atomic_folder
from adaptdock.hub.interchange import head_layouts
from adaptdock.hub.interchange.head_layouts import CLASSES
from adaptdock.hub.interchange.lora_servers import serving_notes
from adaptdock.hub.interchange.merged_changes import merged_changes
from adaptdock.hub.interchange.method_walk import readers
from adaptdock.hub.interchange.outgoing import Outgoing, refuse_head
from adaptdock.plugins.contracts import PeftInterchange, WeightInterchange
from adaptdock.plugins.toolkit import heads
from adaptdock.plugins.toolkit.interchange.peft import HeadUpdate, PeftAdapter, PeftTarget
from adaptdock.plugins.toolkit.interchange.tensors import Named, refuse

if TYPE_CHECKING:
    from torch import nn

ROOT, WRAPPED = "base_model.model.", "base_model."
"""Key prefixes: of adapters that wrap modules, and of adapters that change the input."""


def write_peft(out: Outgoing, folder: Path) -> list[str]:
    """Write an adapter in the format of peft, and return notes for the user; raise :class:`UsageError` for a refusal.

    The folder is written atomically.
    """
    method, parameters = _one_method(out, merged=False)
    kind = _task_type(out)
    skeleton = _skeleton(out, kind)
    front = _front(out, skeleton)
    saved, tensors, unbiased = _head(out, kind, skeleton, front)
    updates = {path: _update(out, path, layer, skeleton) for path, layer in unbiased.items()}
    adapter = method.to_peft(PeftTarget(out.backbone, parameters, kind, skeleton, front, updates))
    if updates:  # the method has not stored them
        raise refuse_head(out, f"it has a bias, and {next(iter(updates))} of {type(skeleton).__name__} has none")
    config = adapter.config | {
        "task_type": kind,
        "base_model_name_or_path": out.base,
        "revision": out.card.backbone.revision,
        "inference_mode": True,
        "modules_to_save": sorted(saved) or None,
    }
    if unbiased:
        config |= _without_task(skeleton)
    root = WRAPPED if adapter.prompt_learning else ROOT
    tensors = {f"{root}{name}": tensor for name, tensor in tensors.items()}
    tensors |= {f"{'' if adapter.prompt_learning else ROOT}{name}": tensor for name, tensor in adapter.tensors.items()}
    tensors |= adapter.shared
    _write(folder, config, tensors, _readme(out, kind))
    return [*out.notes, *serving_notes(config, tensors)]


def peft_adapter(out: Outgoing, merged: bool) -> PeftAdapter:
    """Return the methods of an adapter in the format of peft, without its head; ``merged`` asks for LoRA of them."""
    method, parameters = _one_method(out, merged)
    kind = _task_type(out)
    skeleton = _skeleton(out, kind)
    return method.to_peft(PeftTarget(out.backbone, parameters, kind, skeleton, _front(out, skeleton)))


def _one_method(out: Outgoing, merged: bool) -> tuple[PeftInterchange, Mapping[str, Named]]:
    """Return the only method of an adapter, with its parameters; or else a method for the merged change.

    Raises :class:`UsageError` for methods that peft lacks and that cannot be merged.
    """
    if not merged and len(out.parts) == 1 and isinstance(out.parts[0].method, PeftInterchange):
        return out.parts[0].method, out.parts[0].tensors
    changes = merged_changes(out)
    exchanged = {plugin.name for plugin, _ in readers(PeftInterchange, None)}
    for plugin, reader in readers(WeightInterchange, None):
        if plugin.name in exchanged and all(reader.numbers(change) is not None for change in changes):
            weights = reader.from_changes(changes, out.backbone)
            out.notes.append(
                f"peft gets the merged change of {' and '.join(part.name for part in out.parts)} as {plugin.name}"
            )
            return reader(reader.Options.model_validate(weights.options)), weights.tensors
    raise refuse("this adapter", "no method stores the merged change")


def _without_task(skeleton: "nn.Module") -> dict[str, Any]:
    """Return options that name the class instead of the task, for which PEFT would save the head in full."""
    model = type(skeleton)
    return {
        "task_type": None,
        "auto_mapping": {"base_model_class": model.__name__, "parent_library": model.__module__},
    }


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
    for number, module in enumerate(layout.norms):
        norm = {name: out.file.tensors[f"head.norm{number}_{name}"] for name in ("weight", "bias")}
        tensors |= _linear(out, module, norm, skeleton)
    last = {name: out.file.tensors[f"head.{name}"] for name in ("weight", "bias")}
    if last["bias"].any() and not _has_bias(skeleton, layout.last):
        updated[layout.last] = last
    else:
        tensors |= _linear(out, layout.last, last, skeleton)
    return {name.removeprefix(front).split(".")[0] for name in tensors}, tensors, updated


def _update(out: Outgoing, path: str, layer: Named, skeleton: "nn.Module") -> HeadUpdate:
    """Return the difference of a map of the head from its frozen map, which has no bias."""
    frozen = head_layouts.HeadWeights(out.backbone).frozen(f"{path}.weight")
    if frozen is None or frozen.shape != layer["weight"].shape:
        raise refuse_head(out, f"it has a bias, and {path} of {type(skeleton).__name__} has none")
    return HeadUpdate(layer["weight"].float() - frozen.float(), layer["bias"].float())


def _layout(out: Outgoing, kind: str, skeleton: "nn.Module") -> head_layouts.Layout:
    """Return the head layout of the class; raise :class:`UsageError` if the class computes another head than ours."""
    head = out.head
    if kind == "SEQ_CLS":
        layout = head_layouts.sequence_layout(out.backbone)
        assert isinstance(head, heads.SequenceHead)
        front = out.virtual_tokens if layout.reads == "first" else 0
        ours = head.pooling, head.layers, head.norms, head.front
        theirs = layout.reads, head_layouts.functions(layout), bool(layout.norms), front
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
    last = head_layouts.token_layout(skeleton, kind)
    if last is None:
        raise refuse_head(out, f"the head of {type(skeleton).__name__} is not a linear map")
    if (head.layers, head.norms) != (head_layouts.functions(last), bool(last.norms)):
        raise refuse_head(
            out,
            f"it has {len(head.layers)} layers before its last map, {type(skeleton).__name__} {len(last.layers)}",
        )
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
    """Return whether a layer equals the frozen layer of the body, in the precision of the stored layer."""
    weights = head_layouts.HeadWeights(out.backbone)
    frozen = {name: weights.frozen(f"{module}.{name}") for name in layer}
    return all(
        frozen_tensor is not None and layer[name].equal(frozen_tensor.to(layer[name].dtype))
        for name, frozen_tensor in frozen.items()
    )
