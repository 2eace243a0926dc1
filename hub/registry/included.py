"""The adapters that this package itself carries: those of its own index, usable by name without an installation.

Their files came with the package, so nothing is fetched. They have to have the hash of their entry, and the policy and
the revocations of this machine hold for them as for installed ones.
"""

from pathlib import Path

from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry import store
from adaptdock.hub.registry.index import Entry, Index
from adaptdock.hub.registry.verified import Verified, open_source, own_source, usual


def own_index() -> Index:
    """Return the package's index; an empty one where the package was installed without it."""
    path = Path(own_source())
    return read(path, Index) if path.exists() else Index()


def carried() -> list[tuple[Entry, Path]]:
    """Return each entry of the package's index whose file the package carries, with that file."""
    folder = Path(own_source()).parent
    files = [(entry, folder / entry.file) for entry in own_index().adapters]
    return [(entry, file) for entry, file in files if file.is_file()]


def included() -> list[tuple[Entry, Path]]:
    """Return the newest version of each carried adapter that is not withdrawn, with its file.

    Empty where :data:`verified.VARIABLE` names other sources in place of the package's index, and where this machine
    trusts a root of that index: then only an installation verifies the signed state.
    """
    if own_source() not in usual() or isinstance(open_source(own_source()), Verified):
        return []
    index = own_index()
    return [
        (entry, file) for entry, file in carried() if index.find(entry.name) == entry and not index.withdrawn(entry)
    ]


def included_entry(name: str) -> Entry | None:
    """Return the entry of an included adapter; None for another name."""
    return next((entry for entry, _ in included() if entry.name == name), None)


def verify_included(name: str) -> str | None:
    """Return the fault of an included adapter, or None; raise :class:`KeyError` for another name."""
    entry, file = {entry.name: (entry, file) for entry, file in included()}[name]
    return store.fault(entry, file, own_index().revoked)
