"""Merging: a copy of a backbone with an adapter merged into its linear maps."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptdock.engine.core.assembly import HEAD, Assembly
from adaptdock.engine.core.docked_adapters import DockedAdapters
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.atomic import atomic_folder
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, Mergeable, Port

HEAD_FILE, CARD_FILE, CONFIG_FILE = "head.safetensors", "card.json", "config.json"
Maps = dict[Port, tuple[Tensor, Tensor]]
"""Port -> weight (outputs, inputs), bias (outputs)."""


def merge(backbone: Backbone, adapter: AdapterFile, folder: Path, overwrite: bool = False) -> list[str]:
    """Write a copy of a backbone with an adapter merged into it, and return the names of the adapter's ports.

    The library of the backbone can load the folder. The adapter's head and card, which are not part of that
    model, are written beside it as ``head.safetensors`` and ``card.json``. The backbone stays unchanged.

    Raises :class:`UsageError` for a method that is not a linear map, a quantised backbone and a taken folder,
    :class:`MismatchError` for an adapter of another backbone, :class:`BackboneError` for a map that cannot hold
    the merged weights, and :class:`FileError` if nothing can be written.
    """
    check_folder(folder, overwrite, backbone.id)
    if backbone.quantized:
        raise UsageError(
            f"nothing is merged into the {backbone.quantized} weights of a quantised backbone: the copy would be "
            f"rounded once more, or no longer quantised. Load the backbone without quantisation and merge into that."
        )
    maps = merged_maps(backbone, adapter, DockedAdapters(backbone).prepare(adapter).assembly)
    head = {name: tensor for name, tensor in adapter.tensors.items() if name.startswith(f"{HEAD}.")}
    with atomic_folder(folder, replace=overwrite) as place:
        backbone.save(place, maps)
        save_file({name: tensor.cpu().contiguous() for name, tensor in head.items()}, place / HEAD_FILE)
        card = adapter.card.model_dump_json(indent=2)
        (place / CARD_FILE).write_text(card + "\n", encoding="utf-8")
    return [port.name for port in maps]


def check_folder(folder: Path, overwrite: bool, backbone: str) -> None:
    """Raise :class:`UsageError` unless a merged model may be written there; only a merged model is replaced."""
    home = Path(backbone).expanduser()
    if home.exists() and home.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{folder} holds the backbone {backbone!r}, which stays as it is: give another --output")
    if not folder.exists() and not folder.is_symlink():
        return
    if not overwrite:
        raise UsageError(f"{folder} exists already: give another --output, or --overwrite to replace it")
    is_ours = all((folder / name).is_file() for name in (HEAD_FILE, CARD_FILE, CONFIG_FILE))
    if not folder.is_dir() or folder.is_symlink() or (any(folder.iterdir()) and not is_ours):
        raise UsageError(f"{folder} is no merged model, and nothing else is overwritten: give another --output")


@torch.no_grad()
def merged_maps(backbone: Backbone, adapter: AdapterFile, assembly: Assembly) -> Maps:
    """Return the merged weight and bias of each linear map of the adapter, computed in float32.

    Raises :class:`UsageError` for a method that is not a linear map.
    """
    maps: Maps = {}
    for part in assembly.parts:
        folded = part.folded(adapter.tensors, backbone)
        for site in part.sites:
            port = site.port
            if port.kind != "linear":
                raise UsageError(
                    f"the method {part.name!r} cannot be merged into a backbone: it acts at {port.kind} ports, "
                    f"where there are no weights to merge it into"
                )
            if port in maps:
                raise UsageError(f"two methods of this adapter act at {port.name}; only one can be merged into a map")
            if not isinstance(part.method, Mergeable):
                raise UsageError(f"the method {part.name!r} cannot be merged into a backbone: it is not a linear map")
            weight, bias = backbone.weight(port), backbone.bias(port)
            acting = {name: tensor.to(weight.device, torch.float32) for name, tensor in folded[port.name].items()}
            merged = part.method.merge(site, acting, weight.float(), bias.float())
            maps[port] = (merged[0].to(weight.dtype), merged[1].to(bias.dtype))
    return maps
