"""Import from AdapterHub (library ``adapters``): the folder, its configurations and its head.

A folder has ``adapter_config.json`` and ``pytorch_adapter.bin`` (or ``adapter.safetensors``), and for a head
``head_config.json`` and ``pytorch_model_head.bin`` (or ``model_head.safetensors``). The formulas are those of adapters
1.3 (``methods/*.py``, ``heads/*.py``). An option that would compute something else here is refused by name. Methods
read their own tensors.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from adaptdock.hub.interchange.adapterhub_config import REFUSED, FolderOptions, single_methods
from adaptdock.hub.interchange.adapterhub_heads import head_type, read_head
from adaptdock.hub.interchange.adapterhub_places import OTHERWISE, Architecture
from adaptdock.hub.interchange.incoming import Imported, Part, base_note, build, read_json, unknown_notes
from adaptdock.hub.interchange.incoming_tensors import read_tensors
from adaptdock.hub.interchange.method_walk import readers, rival_note
from adaptdock.plugins.contracts import AdapterHubInterchange, Backbone
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubSource, AttentionMode
from adaptdock.plugins.toolkit.interchange.tensors import ForeignTensors, refuse

CONFIG, WEIGHTS = "adapter_config.json", ("adapter.safetensors", "pytorch_adapter.bin")


def is_adapterhub(folder: Path) -> bool:
    """Return whether a folder has an adapter of AdapterHub."""
    return (folder / CONFIG).is_file() and "config" in read_json(folder / CONFIG)


def read_adapterhub(
    folder: Path,
    backbone: Backbone,
    name: str,
    labels: tuple[str, ...] = (),
    method: str | None = None,
    attention: AttentionMode = "sdpa",
) -> Imported:
    """Read an adapter of AdapterHub for its backbone; see :func:`read_peft`."""
    about, parts, notes = read_methods(folder, backbone, head_type(folder), method, attention)
    head, head_notes = read_head(folder, backbone, labels)
    file = build(backbone, name, parts, head, origin(about))
    return Imported(file, list(dict.fromkeys(notes + head_notes)))


def read_methods(
    folder: Path,
    backbone: Backbone,
    head: str | None,
    method: str | None = None,
    attention: AttentionMode = "sdpa",
) -> tuple[FolderOptions, list[Part], list[str]]:
    """Return the configuration of a folder, the methods in it, and notes; ``head`` is the type of the head, if any."""
    path = folder / CONFIG
    about = FolderOptions.parse(read_json(path), path)
    if about.model_type not in (None, backbone.architecture):
        raise refuse(f"an adapter for {about.model_type}", f"the backbone is {backbone.architecture!r}")
    if about.hidden_size not in (None, backbone.width):
        raise refuse("this adapter", f"its hidden_size is {about.hidden_size}, the backbone's {backbone.width}")
    notes = base_note(about.model_name, backbone)
    tensors = cache(partial(read_tensors, folder, WEIGHTS))  # read once, after a valid configuration
    parts = [
        _part(config, place, about, path, tensors, backbone, notes, method, head, attention)
        for config, place in single_methods(about, path)
    ]
    notes += unknown_notes(about.unknown, "AdapterHub")
    if tensors().unused:
        raise refuse(f"the tensor {next(iter(tensors().unused))!r}", "no option in the configuration explains it")
    if backbone.architecture in OTHERWISE:
        notes.append(
            f"the library's own {backbone.architecture} has other hidden states than that of transformers, with no "
            f"adapter at all: logits differ from the library's by as much"
        )
    return about, parts, notes


def origin(about: FolderOptions) -> dict[str, Any]:
    """Return what a configuration says of its adapter, for the card."""
    values = {
        "library": "adapters",
        "version": about.version,
        "class": about.model_class,
        "base_model": about.model_name,
    }
    return {key: value for key, value in values.items() if value}


def _part(
    config: Mapping[str, Any],
    place: tuple[str, ...],
    about: FolderOptions,
    path: Path,
    tensors: Callable[[], ForeignTensors],
    backbone: Backbone,
    notes: list[str],
    method: str | None,
    head: str | None,
    attention: AttentionMode,
) -> Part:
    """Return a part of the adapter as its method has read it; raise :class:`UsageError` if no method reads it."""
    kind = config.get("architecture")
    candidates = [
        (plugin, reader) for plugin, reader in readers(AdapterHubInterchange, method) if kind in reader.adapterhub_types
    ]
    if not candidates:
        raise refuse(f"the architecture {kind}", REFUSED.get(str(kind), "it is not known here"))
    sole = about.config.get("architecture") == kind
    for plugin, reader in candidates:
        options = reader.adapterhub_types[kind].parse(config, path, *place)
        source = AdapterHubSource(
            options,
            tensors(),
            backbone,
            Architecture(backbone),
            about.name,
            about.version,
            sole,
            head,
            notes,
            attention,
        )
        weights = reader.from_adapterhub(source)
        if weights is not None:
            notes += unknown_notes(options.unknown, "AdapterHub")
            notes += rival_note(plugin, [rival for rival, _ in candidates])
            return Part(plugin.name, weights)
    names = ", ".join(plugin.name for plugin, _ in candidates)
    raise refuse(f"this adapter of the architecture {kind}", f"its options are read by none of {names}")
