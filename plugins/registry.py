"""The registry: plugins are found by their entry points, and imported when they are used.

Discovery reads only the metadata of the installed distributions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import invalidate_caches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from threading import Timer
from typing import Any, Literal

from adaptdock.errors import PluginError, UnknownNameError
from adaptdock.plugins.files import folder_of

OWN = "adaptdock"
"""The name of this distribution."""
Kind = Literal["method", "task", "backbone", "files", "command"]
GROUPS: dict[Kind, str] = {
    "method": "adaptdock.adapters",
    "task": "adaptdock.tasks",
    "backbone": "adaptdock.backbones",
    "files": "adaptdock.files",
    "command": "adaptdock.commands",
}
DEFAULT_METHOD, DEFAULT_BACKBONE = "lora", "minilm"
"""The defaults of the command line."""
EXAMPLE_TASK = "ner"
"""The task of examples in help texts, where any task would do."""
SLOW_IMPORT = 10.0
"""Seconds after which the import of a plugin is named."""


_tell: "Callable[[Plugin], None] | None" = None
"""Called with a plugin whose import takes long; set by :func:`tell_slow_imports`."""


@dataclass(frozen=True)
class Plugin:
    """One registered entry point, with the distribution that provides it."""

    kind: Kind
    name: str
    target: str
    distribution: str
    version: str
    entry_point: EntryPoint

    @property
    def source(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class State:
    """Whether a plugin is usable, with the reason if it is not."""

    usable: bool
    reason: str = ""


@cache
def _installed() -> tuple[Plugin, ...]:
    kinds = {group: kind for kind, group in GROUPS.items()}
    registered = entry_points()  # one call: each reads the metadata of every distribution
    plugins = [
        Plugin(
            kind=kinds[point.group],
            name=point.name,
            target=point.value,
            distribution=point.dist.name if point.dist else "unknown",
            version=point.dist.version if point.dist else "unknown",
            entry_point=point,
        )
        for group in kinds
        for point in registered.select(group=group)
    ]
    return tuple(sorted(dict.fromkeys(plugins), key=lambda plugin: (plugin.kind, plugin.name, plugin.source)))


def discover(kind: Kind | None = None) -> list[Plugin]:
    """Return the registered plugins, of one kind or all, without importing any."""
    return [plugin for plugin in _installed() if kind in (None, plugin.kind)]


def names(kind: Kind) -> list[str]:
    """Return the names of the plugins of a kind, sorted, each once."""
    return sorted({plugin.name for plugin in discover(kind)})


def find(kind: Kind, name: str) -> Plugin:
    """Return the plugin of a kind and name, without importing it.

    Raises :class:`UnknownNameError` with the nearest names, and :class:`PluginError` if two distributions register
    the same name.
    """
    matching = [plugin for plugin in discover(kind) if plugin.name == name]
    if not matching:
        raise UnknownNameError(kind, name, names(kind))
    if len(matching) > 1:
        raise PluginError(_clash(matching))
    return matching[0]


def load(kind: Kind, name: str) -> Any:
    """Import a plugin and return its class.

    Raises the errors of :func:`find`, and :class:`PluginError` if the import fails or the class is for another version
    of the contracts.
    """
    return load_plugin(find(kind, name))


def load_plugin(plugin: Plugin) -> Any:
    """Import a plugin; raise :class:`PluginError` with its name if it is broken.

    For adapter files the folder is returned, and nothing is imported.
    """
    if plugin.kind == "files":
        return _folder(plugin)
    from adaptdock.plugins.compatibility import reason
    from adaptdock.plugins.contracts import BackboneFamily, Combination, Method, Task

    try:
        with _watched(plugin):
            loaded = plugin.entry_point.load()
    except BaseException as error:  # a broken plugin may even call sys.exit()
        if isinstance(error, KeyboardInterrupt | MemoryError):
            raise
        raise PluginError(
            f"the {plugin.kind} {plugin.name!r} of {plugin.source} cannot be imported from {plugin.target}: "
            f"{type(error).__name__}: {error}"
        ) from error
    contracts: dict[Kind, tuple[type, ...]]
    contracts = {"method": (Method, Combination), "task": (Task,), "backbone": (BackboneFamily,)}
    allowed = contracts.get(plugin.kind, ())
    outdated = reason(loaded, Method)
    if outdated is not None:
        raise PluginError(
            f"the {plugin.kind} {plugin.name!r} of {plugin.source} {outdated}. Install a release of "
            f"{plugin.distribution} that fits."
        )
    if allowed and not (isinstance(loaded, type) and issubclass(loaded, allowed)):
        contract = allowed[0].__name__
        raise PluginError(
            f"the {plugin.kind} {plugin.name!r} of {plugin.source} is not a {contract} of the plugin contracts: "
            f"{plugin.target} is a {type(loaded).__name__}"
        )
    return loaded


def tell_slow_imports(tell: Callable[[Plugin], None] | None) -> None:
    """Set the function that is called, in another thread, with a plugin whose import has not ended after a time."""
    global _tell
    _tell = tell


@contextmanager
def _watched(plugin: Plugin) -> Iterator[None]:
    """Name a plugin of another distribution whose import takes longer than :data:`SLOW_IMPORT` seconds."""
    if _tell is None or plugin.distribution == OWN:
        yield
        return
    timer = Timer(SLOW_IMPORT, _tell, [plugin])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _folder(plugin: Plugin) -> Path:
    try:
        return folder_of(plugin.entry_point)
    except PluginError as error:
        raise PluginError(f"the adapter files {plugin.name!r} of {plugin.source} cannot be used: {error}") from None


def state(plugin: Plugin, check: bool = False) -> State:
    """Return whether a plugin is usable: with ``check`` by importing it, else by its metadata."""
    matching = [candidate for candidate in discover(plugin.kind) if candidate.name == plugin.name]
    if len(matching) > 1:
        return State(False, _clash(matching))
    if check:
        try:
            load_plugin(plugin)
        except PluginError as error:
            return State(False, str(error))
    return State(True)


def usable(kind: Kind) -> Iterator[tuple[Plugin, Any]]:
    """Import and yield the plugins of a kind, built-in plugins first; broken and clashing plugins are skipped."""
    for plugin in sorted(discover(kind), key=lambda plugin: plugin.distribution != OWN):
        if state(plugin, check=True).usable:
            yield plugin, load_plugin(plugin)


def refresh() -> None:
    """Clear the cache of plugins, after distributions were installed or removed."""
    invalidate_caches()
    _installed.cache_clear()


def known_kind(text: str) -> Kind:
    """Return a kind from user input; raise :class:`UnknownNameError` if there is no such kind."""
    for kind in GROUPS:
        if kind == text:
            return kind
    raise UnknownNameError("plugin kind", text, GROUPS)


def _clash(plugins: list[Plugin]) -> str:
    first = plugins[0]
    sources = " and ".join(sorted(plugin.source for plugin in plugins))
    return f"the {first.kind} {first.name!r} is registered by {sources}; uninstall one of them."
