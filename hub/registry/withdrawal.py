"""Withdrawal: a publisher withdraws a version, or all that a key has signed, from a registry.

The entry stays in the index with a revocation beside it. So nobody can publish another file under its version, and
installations show the reason.
"""

from pathlib import Path

from adaptdock.errors import FileError, UnknownNameError
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry.index import Entry, Index, Revocation
from adaptdock.hub.registry.sources import INDEX


def yank(folder: Path, name: str, version: str, reason: str) -> Entry:
    """Withdraw one version of an adapter, and return its entry; raise :class:`UnknownNameError` if there is none."""
    with changing(folder / INDEX):
        index = read(folder / INDEX, Index)
        entry = index.find(name, version)
        if entry is None:
            raise UnknownNameError("published adapter", f"{name}@{version}", [known.label for known in index.adapters])
        _add(folder, index, Revocation(sha256=entry.sha256, reason=reason))
    return entry


def revoke_key(folder: Path, key: str, reason: str) -> list[Entry]:
    """Withdraw the entries that a key has signed and return them; raise :class:`UnknownNameError` without any."""
    with changing(folder / INDEX):
        index = read(folder / INDEX, Index)
        entries = [entry for entry in index.adapters if key and entry.key == key]
        if not entries:
            raise UnknownNameError("key", key, {entry.key for entry in index.adapters if entry.key})
        _add(folder, index, Revocation(key=key, reason=reason))
    return entries


def _add(folder: Path, index: Index, revocation: Revocation) -> None:
    others = [known for known in index.revoked if (known.key, known.sha256) != (revocation.key, revocation.sha256)]
    changed = index.model_copy(update={"revoked": [*others, revocation]})
    try:
        write_atomically(folder / INDEX, changed.to_json().encode())
    except OSError as error:
        raise FileError(folder / INDEX, f"it could not be written: {error.strerror or error}") from error
