"""Adapters of other libraries: their folders, their modules and our ports, and the file that is made of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.card import BackboneEntry, Card, PluginEntry, Preprocessing
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Port, Ports
from adaptdock.plugins.regular import read_regular

if TYPE_CHECKING:
    from torch import Tensor

Named = dict[str, "Tensor"]


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


def refuse(what: str, why: str) -> UsageError:
    """Return the error for something that cannot be carried from one library to another."""
    return UsageError(f"{what} cannot be carried over: {why}")


# ------------------------------------------------------------------------------------------ folders


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise :class:`FileError` where it is none."""
    try:
        found = json.loads(read_regular(path).decode("utf-8"))
    except FileNotFoundError:
        raise FileError(path, "there is no such file") from None
    except (OSError, ValueError) as error:
        raise FileError(path, f"it cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise FileError(path, "it holds no object")
    return found


def read_tensors(folder: Path, names: Sequence[str]) -> Named:
    """Return the tensors of the first of these files that is there; raise :class:`FileError` for damage.

    A ``.bin`` is read by torch with ``weights_only``, which makes tensors and runs nothing.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise FileError(folder, f"there is none of the files {', '.join(names)}")
    return _safetensors(path) if path.suffix == ".safetensors" else _weights_only(path)


def _safetensors(path: Path) -> Named:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FileError(path, f"its tensors cannot be read: {error}") from None


def _weights_only(path: Path) -> Named:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileError(path, f"it holds more than tensors, or is damaged, and is not loaded ({first:.120})") from None
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise FileError(path, "it holds something else than tensors by name")
    return found


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
