"""Trained adapters as parts of a new adapter: their files are read when its training is planned."""

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
    """Return a method with the trained adapters that it is made of, and any other method unchanged.

    Raises :class:`FileError` for a damaged file, :class:`MismatchError` for an adapter of another backbone, and the
    errors of the method for members that cannot be computed together.
    """
    if not isinstance(method, Composite) or not method.wants:
        return method
    return method.adopt({path: _trained(path, backbone) for path in method.wants})


def beneath(path: Path, backbone: Backbone) -> tuple[list[BaseEntry], list[Part]]:
    """Return an adapter as the base of another, after its own bases, from the lowest up.

    Raises :class:`FileError` for a damaged file, :class:`MismatchError` for an adapter of another backbone.
    """
    adapter = _verified(path, backbone)
    card = adapter.card
    base_tensors = {
        f"{ON}.{len(card.on)}.{name}": tensor
        for name, tensor in adapter.tensors.items()
        if not name.startswith((f"{ON}.", f"{HEAD}."))
    }
    reads = make_task(card.task.name, card.task.options).head().reads
    bases = [*card.on, BaseEntry(name=card.name, methods=card.methods, reads=reads)]
    tensors = {**adapter.tensors, **base_tensors}
    return bases, [part for depth, base in enumerate(bases) for part in parts_beneath(backbone, depth, base, tensors)]


def _trained(path: Path, backbone: Backbone) -> Trained:
    adapter = _verified(path, backbone)
    if adapter.card.on:
        raise MismatchError(
            f"{path}: the adapter needs its base {adapter.card.on[-1].name!r}, so it cannot be a member by itself"
        )
    methods = [(entry.name, entry.options) for entry in adapter.card.methods]
    return Trained(adapter.card.name, methods, adapter.tensors)


def _verified(path: Path, backbone: Backbone) -> AdapterFile:
    adapter = read_adapter(path)
    try:
        DockedAdapters(backbone).prepare(adapter)  # checks fingerprint, shapes and numbers without docking
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from None
    return adapter


def fingerprint(assembly: Assembly) -> str | None:
    """Return a hash of the weights that an adapter stores without training, or None without such weights."""
    frozen_names = {f"{place}.{name}" for place, name, parameter in assembly.declared() if not parameter.trained}
    if not frozen_names:
        return None
    start = assembly.start(torch.Generator())
    digest = hashlib.sha256()
    for name in sorted(frozen_names):
        digest.update(name.encode() + b"\0" + start[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
