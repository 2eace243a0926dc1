"""Adapters by name: installed from a registry, carried by installed distributions, or included in this package."""

import os
from dataclasses import dataclass
from pathlib import Path

from adaptdock.errors import PluginError, UnknownNameError
from adaptdock.plugins import registry
from adaptdock.plugins.files import SUFFIX, adapter_files


@dataclass(frozen=True)
class Installed:
    """An adapter file by name, with its distribution or registry.

    In a distribution the name is the name of the file, without its suffix.
    """

    name: str
    path: Path
    distribution: str
    version: str

    @property
    def source(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}"


def installed() -> list[Installed]:
    """Return all named adapters, sorted. Only records, metadata and file names are read.

    A broken entry point yields no adapters; :func:`registry.state` has the reason.
    """
    from adaptdock.hub.registry import store  # slow to import, and not needed for a path
    from adaptdock.hub.registry.included import included

    adapters = {
        record.path: Installed(record.entry.name, record.path, record.source, record.entry.version)
        for record in store.installed()
    }
    for plugin in registry.discover("files"):
        if registry.state(plugin, check=True).usable:
            for path in adapter_files(registry.load_plugin(plugin)):
                adapters.setdefault(path, Installed(path.stem, path, plugin.distribution, plugin.version))
    names = {adapter.name for adapter in adapters.values()}  # an installed adapter replaces an included one
    for entry, path in included():
        if entry.name not in names:
            adapters[path] = Installed(entry.name, path, registry.OWN, entry.version)
    return sorted(adapters.values(), key=lambda adapter: (adapter.name, adapter.source, adapter.path))


def find(name: str) -> Installed:
    """Return the only adapter of that name.

    Raises :class:`UnknownNameError` with the nearest names, and :class:`PluginError` if several adapters have the name.
    """
    adapters = installed()
    matching = [adapter for adapter in adapters if adapter.name == name]
    if not matching:
        hint = "adapt list shows the installed ones; a file is named with its folder or its suffix."
        raise UnknownNameError("adapter", name, {adapter.name for adapter in adapters}, hint)
    if len(matching) > 1:
        sources = " and ".join(adapter.source for adapter in matching)
        raise PluginError(
            f"the adapter {name!r} is in {sources}: uninstall one of them, or give the path that adapt list shows"
        )
    return matching[0]


def locate(name: str | Path) -> Path:
    """Return the path of an adapter, given its path or its name; an existing path comes first.

    Raises the errors of :func:`find`.
    """
    path = Path(name)
    if path.exists() or path.suffix == SUFFIX or os.sep in str(name):
        return path
    return find(str(name)).path
