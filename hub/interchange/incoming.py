"""Adapters of other libraries: their folders, their modules and our ports, and the file that is made of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptdock.errors import FileError
from adaptdock.hub.artefact import strict_json
from adaptdock.hub.artefact.card import BackboneEntry, Card, PluginEntry, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.interchange.incoming_tensors import Named, refuse
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Port, Ports


@dataclass
class Part:
    """One method of an adapter: its name, its options, and port -> parameter -> tensor."""

    method: str
    options: dict[str, Any]
    tensors: dict[str, Named]


@dataclass
class Headed:
    """A task, its options, and the tensors of its head."""

    task: str
    options: dict[str, Any] = field(default_factory=dict)
    tensors: Named = field(default_factory=dict)


@dataclass
class Imported:
    """An adapter that was read, and what a person should know of it."""

    file: AdapterFile
    notes: list[str]


# ------------------------------------------------------------------------------------------ folders


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise :class:`FileError` where it is none."""
    values = strict_json.read_json(path)
    if not isinstance(values, dict):
        raise FileError(path, "it holds no object")
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise FileError(path, "one of its texts holds half of a surrogate pair, which no file can store") from None
    return values


# -------------------------------------------------------------------------------------------- ports


class Finder:
    """The port of a module that another library names, whatever stands in front of its path in the body."""

    def __init__(self, ports: Iterable[Port], owner: str) -> None:
        self._by_module = {port.module: port for port in ports if port.kind == "linear"}
        self.owner, self.prefix = owner, None if not self._by_module else ""
        self._seen: set[str] = set()

    def port(self, path: str) -> Port | None:
        """Return the port at a path, or None; raise :class:`UsageError` where paths begin in two ways."""
        parts = path.split(".")
        for start in range(len(parts)):
            found = self._by_module.get(".".join(parts[start:]))
            if found is not None:
                self._seen.add(".".join(parts[:start]))
                if len(self._seen) > 1:
                    raise refuse(self.owner, f"its modules lie in two models: {' and '.join(sorted(self._seen))}")
                return found
        return None

    @property
    def front(self) -> str:
        """What stands in front of the body's paths, with its dot; known once a port was found."""
        return "".join(f"{part}." for part in self._seen if part)


def chosen(ports: Ports, wanted: Sequence[Port]) -> dict[str, Any]:
    """Return ``roles`` and ``layers`` with which a method acts at these linear ports and no others."""
    roles = tuple(dict.fromkeys(port.role for port in wanted))
    there = {port.layer for port in ports if port.kind == "linear"}
    layers = _layers({port.layer for port in wanted}, there)
    if set(ports.select("linear", roles, layers)) == set(wanted):
        return {"roles": roles, "layers": layers}
    return {"roles": tuple(port.name for port in wanted), "layers": None}


def _layers(numbers: set[int], there: set[int]) -> str | None:
    return None if numbers == there else ",".join(map(str, sorted(numbers)))


# --------------------------------------------------------------------------------------------- notes


def base_note(configured: str | None, backbone: Backbone) -> list[str]:
    """Return a note where the base model of a configuration has another name than the backbone."""
    names = {_last(name) for name in (backbone.id, backbone.hub_id) if name}
    if not configured or _last(configured) in names:
        return []
    return [
        f"the adapter was trained on the base model {configured!r}, the backbone is {backbone.id!r}: shapes are "
        f"compared, weights are not"
    ]


def _last(name: str) -> str:
    """Return the last part of a path or hub id."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].casefold()


def unknown_notes(options: Iterable[str], library: str) -> list[str]:
    """Return a note for each option of a configuration that the import does not know."""
    return [f"the configuration's {name!r} is none of the options of {library} that are known here" for name in options]


# --------------------------------------------------------------------------------------------- file


def plugin_entry(kind: registry.Kind, name: str, options: Mapping[str, Any]) -> PluginEntry:
    """Return what a card says of a plugin with these options, checked; raise :class:`UsageError` without it."""
    from pydantic import ValidationError

    plugin = registry.find(kind, name)
    try:
        made = registry.load(kind, name).Options.model_validate(dict(options))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors())
        raise refuse(f"the {kind} {name!r} with these options", problems) from None
    return PluginEntry(
        name=name,
        options=made.model_dump(mode="json"),
        distribution=plugin.distribution,
        version=plugin.version,
    )


def build(
    backbone: Backbone, name: str, parts: Sequence[Part], head: Headed, origin: Mapping[str, Any], description: str = ""
) -> AdapterFile:
    """Put parts and head into one adapter file in memory, in the precision in which they came."""
    tensors = {
        f"{port}.{parameter}": tensor.contiguous()
        for part in parts
        for port, named in part.tensors.items()
        for parameter, tensor in named.items()
    }
    tensors |= {f"head.{parameter}": tensor.contiguous() for parameter, tensor in head.tensors.items()}
    huge = next((key for key, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if huge is not None:
        raise refuse(f"the adapter {name!r}", f"its scales make numbers in {huge!r} that no float32 holds")
    card = Card(
        name=name,
        task=plugin_entry("task", head.task, head.options),
        methods=[plugin_entry("method", part.method, part.options) for part in parts],
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
