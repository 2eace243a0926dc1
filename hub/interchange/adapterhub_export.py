"""Export to AdapterHub: adapter, head, and a configuration of each, in the format of the library.

Weights are written twice: the library reads ``.bin`` (plain tensors) unless it gets ``use_safetensors=True``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptdock.hub.artefact.atomic import atomic_folder
from adaptdock.hub.interchange.adapterhub_config import INVERTIBLE, PLACES
from adaptdock.hub.interchange.adapterhub_heads_export import head_of
from adaptdock.hub.interchange.adapterhub_places import BESIDE, IN_BLOCK, IN_LAYER, Architecture
from adaptdock.hub.interchange.outgoing import Outgoing, Part
from adaptdock.plugins.contracts import AdapterHubInterchange
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubMethod, AdapterHubTarget
from adaptdock.plugins.toolkit.interchange.ports import config_of
from adaptdock.plugins.toolkit.interchange.tensors import Named, refuse

NAME, VERSION = "adapter", "adapters.1.3.0"
"""The name inside the files (the library renames the adapter on loading), and the format version."""


def write_adapterhub(out: Outgoing, folder: Path) -> list[str]:
    """Write an adapter in the format of AdapterHub, and return notes for the user.

    Raises :class:`UsageError` for an unsupported adapter. The folder is written atomically.
    """
    if out.backbone.architecture not in IN_BLOCK | IN_LAYER | BESIDE:
        raise refuse(f"an adapter for {out.backbone.architecture}", "AdapterHub has no such model that is known here")
    methods = [_method(out, part) for part in out.parts]
    configs = _joined([method.config for method in methods])
    config = configs[0] if len(configs) == 1 else {"architecture": "union", "configs": configs}
    front = f"{getattr(out.backbone.model, 'base_model_prefix', '')}."
    tensors = {f"{front}{path}": tensor for method in methods for path, tensor in method.tensors.items()}
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


def _joined(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the configurations with an invertible adapter as an option of the bottlenecks with its activation."""
    joined = [config for config in configs if config.get("architecture") != "invertible"]
    for config in configs:
        if config.get("architecture") == "invertible":
            options = {name: config[name] for name in INVERTIBLE}
            bottlenecks = next((member for member in joined if _takes(member, options)), None)
            if bottlenecks is None:
                joined.append({**dict.fromkeys(PLACES, False), "reduction_factor": 1, **options})
            else:
                bottlenecks.update(options)
    return joined


def _takes(config: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Return whether a configuration of bottlenecks has the activation function of an invertible adapter."""
    return "output_adapter" in config and config["non_linearity"] == options["non_linearity"]


def _family(out: Outgoing) -> str:
    """Return the prefix of a model's class names: Bert, GPT2, ..."""
    name = type(config_of(out.backbone)).__name__
    return name.removesuffix("Config")


def _method(out: Outgoing, part: Part) -> AdapterHubMethod:
    if not isinstance(part.method, AdapterHubInterchange):
        raise refuse(f"the method {part.name}", "AdapterHub has none that computes the same")
    return part.method.to_adapterhub(AdapterHubTarget(out.backbone, Architecture(out.backbone), part.tensors, NAME))
