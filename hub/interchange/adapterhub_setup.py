"""Import of a setup of AdapterHub: adapters in one folder, stacked or fused (``save_adapter_setup`` writes it).

``adapter_setup.json`` has the composition and the name of the head. Each adapter has a folder of its name, and so have
a head and a fusion layer (``a,b``). Adapters of a stack become the base adapters of the top one, in one file.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.errors import FileError
from adaptdock.hub.interchange.adapterhub import CONFIG, origin, read_methods
from adaptdock.hub.interchange.adapterhub_config import FolderOptions, single_methods
from adaptdock.hub.interchange.adapterhub_heads import head_type, read_head
from adaptdock.hub.interchange.adapterhub_places import Architecture
from adaptdock.hub.interchange.incoming import Imported, Part, build, read_json, unknown_notes
from adaptdock.hub.interchange.incoming_tensors import read_tensors
from adaptdock.hub.interchange.method_walk import readers
from adaptdock.plugins.contracts import AdapterHubFusion, Backbone
from adaptdock.plugins.toolkit.interchange.adapterhub import AdapterHubSource, AttentionMode
from adaptdock.plugins.toolkit.interchange.options import ForeignOptions
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, refuse

SETUP, FUSION = "adapter_setup.json", "adapter_fusion_config.json"
FUSION_WEIGHTS = ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin")
SINGLE, STACK, FUSE = "single", "Stack", "Fuse"
DEEPEST = 8
"""Largest depth of compositions inside one another."""
Level = tuple[str, ...]
"""The names of the adapters at one level of a stack: one, or several that are fused."""


class SetupOptions(ForeignOptions):
    """The fields of a setup."""

    adapter_setup: dict[str, Any]
    head_setup: str | None = None
    version: str | None = None


class FusionFolderOptions(FolderOptions):
    """The fields of the configuration of a fusion layer."""

    adapter_names: list[str] | None = None


def is_setup(folder: Path) -> bool:
    """Return whether a folder has a setup of AdapterHub."""
    return (folder / SETUP).is_file()


def read_setup(
    folder: Path,
    backbone: Backbone,
    name: str,
    labels: tuple[str, ...] = (),
    attention: AttentionMode = "sdpa",
) -> Imported:
    """Read a setup for its backbone; see :func:`read_peft`."""
    options = SetupOptions.parse(read_json(folder / SETUP), folder / SETUP)
    levels = list(_levels(options.adapter_setup, folder))
    head_folder = _inside(folder, options.head_setup) if options.head_setup else folder
    _check_stack(folder, levels)
    read, notes, about = [], unknown_notes(options.unknown, "AdapterHub"), None
    for level in levels:
        about, parts, level_notes = _read_level(folder, level, backbone, head_type(head_folder), attention)
        read.append(("+".join(level), parts))
        notes += level_notes
    assert about is not None
    head, head_notes = read_head(head_folder, backbone, labels)
    file = build(backbone, name, read[-1][1], head, origin(about), lower=read[:-1])
    return Imported(file, list(dict.fromkeys(notes + head_notes)))


def _levels(block: Mapping[str, Any], folder: Path, depth: int = 0) -> Iterator[Level]:
    """Yield the levels of a composition, lowest first; raise :class:`UsageError` for other compositions."""
    kind, children = block.get("type"), block.get("children")
    if depth > DEEPEST or not isinstance(children, list) or not children:
        raise FileError(folder / SETUP, f"the composition {kind!r} has no children, or is nested too deep")
    if kind == SINGLE:
        yield (str(children[0]),)
    elif kind == STACK:
        for child in children:
            yield from _levels(child if isinstance(child, dict) else {}, folder, depth + 1)
    elif kind == FUSE:
        singles = [list(_levels(child if isinstance(child, dict) else {}, folder, depth + 1)) for child in children]
        if any(len(levels) != 1 or len(levels[0]) != 1 for levels in singles):
            raise refuse("this composition", "it fuses stacks or fusions; here single adapters are fused")
        yield tuple(levels[0][0] for levels in singles)
    else:
        raise refuse(
            f"the composition {kind}",
            "it divides a batch, or averages outputs. Import the adapters one by one: each row can have its own",
        )


def _read_level(
    folder: Path, level: Level, backbone: Backbone, head: str | None, attention: AttentionMode
) -> tuple[FolderOptions, list[Part], list[str]]:
    read = {name: read_methods(_inside(folder, name), backbone, head, attention=attention) for name in level}
    notes = [note for _, _, member_notes in read.values() for note in member_notes]
    about, parts, _ = read[level[-1]]
    if len(level) == 1:
        return about, parts, notes
    for name, (_, member_parts, _) in read.items():
        if len(member_parts) != 1:
            methods = " and ".join(part.method for part in member_parts)
            raise refuse(f"the fusion with {name!r}", f"that adapter is {methods}, and a member has one method")
    members = {name: (parts[0].method, parts[0].weights) for name, (_, parts, _) in read.items()}
    return about, [_fused(_inside(folder, ",".join(level)), members, backbone, notes)], notes


def _fused(
    folder: Path, members: Mapping[str, tuple[str, MethodWeights]], backbone: Backbone, notes: list[str]
) -> Part:
    """Return the fusion of some members, read by the first method that can."""
    path = folder / FUSION
    about = FusionFolderOptions.parse(read_json(path), path)
    if about.adapter_names is not None and about.adapter_names != [*members]:
        raise FileError(path, f"it fuses {about.adapter_names}, and the setup {[*members]}")
    (plugin, reader), *_ = readers(AdapterHubFusion, None)
    options = reader.adapterhub_fusion.parse(about.config, path, "config")
    tensors = read_tensors(folder, FUSION_WEIGHTS)
    source = AdapterHubSource(
        options, tensors, backbone, Architecture(backbone), about.name, about.version, notes=notes
    )
    weights = reader.fuse_adapterhub(members, source)
    notes += unknown_notes((*about.unknown, *options.unknown), "AdapterHub's fusion")
    surplus = next(iter(tensors.unused), None)
    if surplus is not None:
        raise refuse(f"the tensor {surplus!r}", "it belongs to no fusion layer of these adapters")
    return Part(plugin.name, weights)


def _inside(folder: Path, name: str) -> Path:
    """Return the folder of a part; raise :class:`FileError` for a missing one, or a name that is a path."""
    part = folder / name
    if part.name != name or not part.is_dir():
        raise FileError(folder, f"the setup names the part {name!r}, whose folder is missing")
    return part


def _check_stack(folder: Path, levels: Sequence[Level]) -> None:
    """Raise :class:`UsageError` for a stack in which an adapter does not act on the output of that below it.

    In the library a parallel bottleneck replaces the output of that below, LoRA reads it in place of the layer's input,
    and only the lowest invertible adapter acts.
    """
    seen: dict[str, str] = {}
    for level in levels:
        for kind in sorted({kind for name in level for kind in _exclusive(_inside(folder, name))}):
            if kind in seen:
                raise refuse(
                    f"the stack of {seen[kind]!r} and {'+'.join(level)!r}",
                    f"both have {kind}, and in the library the upper one does not add to the lower one",
                )
            seen[kind] = "+".join(level)


def _exclusive(folder: Path) -> Iterator[str]:
    """Yield the methods of an adapter that only one adapter of a stack can have."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileError(folder, f"it has no {CONFIG}")
    for config, _ in single_methods(FolderOptions.parse(read_json(path), path), path):
        kind = config.get("architecture")
        if kind in ("lora", "invertible"):
            yield str(kind)
        elif kind is None and config.get("is_parallel"):
            yield "parallel bottlenecks"
