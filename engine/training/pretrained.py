"""Members: trained adapters of which a new one is made, read from their files when its training is planned."""

import hashlib
from pathlib import Path

import torch

from adaptdock.engine.core.assembly import HEAD, ON, Assembly, Part, make_task, parts_beneath
from adaptdock.engine.core.docked_adapters import DockedAdapters
from adaptdock.errors import MismatchError
from adaptdock.hub.artefact.card import BaseEntry
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.hub.registry.admission import read_adapter
from adaptdock.plugins.contracts import Backbone, Composite, Method, Trained


def adopted(method: Method, backbone: Backbone) -> Method:
    """Return a method with the trained adapters that it wants; any other as it is.

    Raises :class:`FileError` for a file that is damaged, :class:`MismatchError` for an adapter of another
    backbone, and what the method raises for members that cannot be computed together.
    """
    if not isinstance(method, Composite) or not method.wants:
        return method
    return method.adopt({path: _trained(path, backbone) for path in method.wants})


def beneath(path: Path, backbone: Backbone) -> tuple[list[BaseEntry], list[Part]]:
    """Return an adapter, after those that it stands on itself, as the base of another.

    Raises :class:`FileError` for a file that is damaged, :class:`MismatchError` for an adapter of another backbone.
    """
    adapter = _verified(path, backbone)
    card = adapter.card
    own = {
        f"{ON}.{len(card.on)}.{name}": tensor
        for name, tensor in adapter.tensors.items()
        if not name.startswith((f"{ON}.", f"{HEAD}."))
    }
    reads = make_task(card.task.name, card.task.options).head().reads
    bases = [*card.on, BaseEntry(name=card.name, methods=card.methods, reads=reads)]
    kept = {**adapter.tensors, **own}
    return bases, [part for depth, base in enumerate(bases) for part in parts_beneath(backbone, depth, base, kept)]


def _trained(path: Path, backbone: Backbone) -> Trained:
    adapter = _verified(path, backbone)
    if adapter.card.on:
        raise MismatchError(
            f"{path}: it stands on {adapter.card.on[-1].name!r}, so its methods are no member by themselves"
        )
    methods = [(entry.name, entry.options) for entry in adapter.card.methods]
    return Trained(adapter.card.name, methods, adapter.tensors)


def _verified(path: Path, backbone: Backbone) -> AdapterFile:
    adapter = read_adapter(path)
    try:
        DockedAdapters(backbone).prepare(adapter)  # verifies fingerprint, shapes and numbers; nothing is docked
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from None
    return adapter


def fingerprint(assembly: Assembly) -> str | None:
    """Return a hash of the weights that an adapter keeps without training them, or None if there are none."""
    kept = {f"{place}.{name}" for place, name, parameter in assembly.declared() if not parameter.trained}
    if not kept:
        return None
    start = assembly.start(torch.Generator())
    found = hashlib.sha256()
    for name in sorted(kept):
        found.update(name.encode() + b"\0" + start[name].contiguous().numpy().tobytes())
    return found.hexdigest()
