"""Adapters that are there by name: those that were installed from a registry, and those that distributions carry."""

import os
from dataclasses import dataclass
from pathlib import Path

from adaptdock.errors import PluginError, UnknownNameError
from adaptdock.plugins import registry
from adaptdock.plugins.files import SUFFIX, adapter_files


@dataclass(frozen=True)
class Installed:
    """An adapter file by its name, and the distribution (or the registry) that brought it.

    In a distribution the name is that of the file, without its suffix.
    """

    name: str
    path: Path
    distribution: str
    version: str

    @property
    def source(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.distribution} {self.version}"


def installed() -> list[Installed]:
    """Return the adapters that there are, by name; only records, metadata and the names of files are read.

    An entry point that leads nowhere brings none; :func:`registry.state` tells why.
    """
    from adaptdock.hub.registry import store  # reads indices and signatures, which a path does without

    found = {
        record.path: Installed(record.entry.name, record.path, record.source, record.entry.version)
        for record in store.installed()
    }
    for plugin in registry.discover("files"):
        if registry.state(plugin, check=True).usable:
            for path in adapter_files(registry.load_plugin(plugin)):
                found.setdefault(path, Installed(path.stem, path, plugin.distribution, plugin.version))
    return sorted(found.values(), key=lambda one: (one.name, one.source, one.path))


def find(name: str) -> Installed:
    """Return the one adapter of that name.

    Raises :class:`UnknownNameError` with the nearest names, and :class:`PluginError` where several have it.
    """
    there = installed()
    matching = [one for one in there if one.name == name]
    if not matching:
        hint = "adapt list shows the installed ones; a file is named with its folder or its suffix."
        raise UnknownNameError("adapter", name, {one.name for one in there}, hint)
    if len(matching) > 1:
        sources = " and ".join(one.source for one in matching)
        raise PluginError(
            f"the adapter {name!r} is in {sources}: uninstall one of them, or give the path that adapt list shows"
        )
    return matching[0]


def locate(given: str | Path) -> Path:
    """Return the path of an adapter that is given by its path or by its name; what exists as a path is one.

    Raises what :func:`find` raises.
    """
    path = Path(given)
    if path.exists() or path.suffix == SUFFIX or os.sep in str(given):
        return path
    return find(str(given)).path
