"""Parts of an import: folders, methods and head, and the resulting adapter file."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adaptdock.errors import FileError
from adaptdock.hub.artefact import strict_json
from adaptdock.hub.artefact.card import BackboneEntry, BaseEntry, Card, PluginEntry, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.interchange.reference import Reference
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone
from adaptdock.plugins.toolkit.interchange.tensors import MethodWeights, Named, refuse


@dataclass
class Part:
    """One method of an adapter: its name, and its options and tensors."""

    method: str
    weights: MethodWeights


@dataclass
class Headed:
    """A head: its task, the task's options, and its tensors."""

    task: str
    options: dict[str, Any] = field(default_factory=dict)
    tensors: Named = field(default_factory=dict)


@dataclass
class Imported:
    """An imported adapter, notes for the user, and the library's own result if the library read the adapter."""

    file: AdapterFile
    notes: list[str]
    reference: Reference | None = None


# ------------------------------------------------------------------------------------------ folders


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise :class:`FileError` for any other JSON value."""
    values = strict_json.read_json(path)
    if not isinstance(values, dict):
        raise FileError(path, "it holds no object")
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise FileError(path, "one of its texts holds half of a surrogate pair, which no file can store") from None
    return values


# --------------------------------------------------------------------------------------------- notes


def base_note(configured: str | None, backbone: Backbone) -> list[str]:
    """Return a note if the base model in a configuration has another name than the backbone."""
    names = {_last(name) for name in (backbone.id, backbone.hub_id) if name}
    if not configured or _last(configured) in names:
        return []
    return [
        f"the adapter was trained on the base model {configured!r}, the backbone is {backbone.id!r}: shapes are "
        f"compared, weights are not"
    ]


def _last(name: str) -> str:
    """Return the last part of a path or hub id, in lower case."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].casefold()


def unknown_notes(options: Iterable[str], library: str) -> list[str]:
    """Return a note for each unknown option of a configuration."""
    return [f"the configuration's {name!r} is not a known option of {library}" for name in options]


# --------------------------------------------------------------------------------------------- file


def plugin_entry(kind: registry.Kind, name: str, options: Mapping[str, Any]) -> PluginEntry:
    """Return the card's entry for a plugin with valid options; raise :class:`UsageError` for invalid options."""
    from pydantic import ValidationError

    plugin = registry.find(kind, name)
    try:
        checked_options = registry.load(kind, name).Options.model_validate(dict(options))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors())
        raise refuse(f"the {kind} {name!r} with these options", problems) from None
    return PluginEntry(
        name=name,
        options=checked_options.model_dump(mode="json"),
        distribution=plugin.distribution,
        version=plugin.version,
    )


def build(
    backbone: Backbone,
    name: str,
    parts: Sequence[Part],
    head: Headed,
    origin: Mapping[str, Any],
    description: str = "",
    lower: Sequence[tuple[str, Sequence[Part]]] = (),
) -> AdapterFile:
    """Build an adapter file in memory from methods and head, in the precision of their tensors.

    ``lower`` are the adapters below in a stack, lowest first, with their names.
    """
    tensors = _tensors(parts, "")
    for depth, (_, lower_parts) in enumerate(lower):
        tensors |= _tensors(lower_parts, f"on.{depth}.")
    tensors |= {f"head.{parameter}": tensor.contiguous() for parameter, tensor in head.tensors.items()}
    huge = next((key for key, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if huge is not None:
        raise refuse(f"the adapter {name!r}", f"its scales make numbers in {huge!r} that no float32 holds")
    card = Card(
        name=name,
        task=plugin_entry("task", head.task, head.options),
        on=[
            BaseEntry(name=lower_name, methods=_entries(lower_parts), reads=_reads(head))
            for lower_name, lower_parts in lower
        ],
        methods=_entries(parts),
        backbone=BackboneEntry(
            id=backbone.id,
            revision=backbone.revision,
            architecture=backbone.architecture,
            fingerprint=backbone.fingerprint,
            drop_layers=backbone.dropped,
        ),
        preprocessing=Preprocessing(
            max_length=backbone.max_length,
            tokenizer="" if backbone.tokenizer is None else type(backbone.tokenizer).__name__,
            lower_case=getattr(backbone.tokenizer, "do_lower_case", None),
            vocabulary=backbone.vocabulary,
        ),
        training={"imported": dict(origin)},
        description=description,
    )
    return AdapterFile(card, tensors)


def _tensors(parts: Sequence[Part], prefix: str) -> Named:
    return {
        f"{prefix}{port}.{parameter}": tensor.contiguous()
        for part in parts
        for port, parameters in part.weights.tensors.items()
        for parameter, tensor in parameters.items()
    }


def _entries(parts: Sequence[Part]) -> list[PluginEntry]:
    return [plugin_entry("method", part.method, part.weights.options) for part in parts]


def _reads(head: Headed) -> Literal["encoder", "decoder"]:
    """Return the half of the model that a head reads."""
    plugin = registry.load("task", head.task)
    reads: Literal["encoder", "decoder"] = plugin(plugin.Options.model_validate(head.options)).head().reads
    return reads
