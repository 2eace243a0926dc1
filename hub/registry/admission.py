"""Admission: checks at each read of a file, not only at installation, whether the adapter may be used.

Adapters are recognized by content: a copy of a refused file is refused too.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptdock.errors import FileError, TrustError
from adaptdock.hub.artefact.file import AdapterFile, read_file
from adaptdock.hub.registry import store
from adaptdock.hub.registry.installed import locate
from adaptdock.hub.registry.trust import judge, policy_file, read_policy, trust_file, trusted

Stamp = Mapping[Path, tuple[int, int, int] | None]


@dataclass(frozen=True)
class _Known:
    """Reasons of refused contents by their SHA-256, and the expected SHA-256 of each installed file."""

    refused: Mapping[str, str]
    installed: Mapping[Path, str]


_known: tuple[Stamp, _Known] | None = None


def read_adapter(name: str | Path) -> AdapterFile:
    """Read an adapter to use, from its path or its name.

    Raises :class:`TrustError` if the adapter is revoked, not allowed by the policy, or changed after its installation;
    and the errors of :func:`locate` and :func:`read_file`.
    """
    path = locate(name)
    return read_file(path, lambda content: admit(path, content))


def admit(path: Path, content: bytes) -> None:
    """Raise :class:`TrustError` if the content of an adapter file may not be used now."""
    current, path = _current(), path.resolve()
    expected = current.installed.get(path)
    if expected is None and path.is_relative_to(store.root().resolve()):
        raise TrustError(
            f"{path} is refused: it is in the folder of the installed adapters without a record that can be read. "
            f"Delete {path.parent}, and install the adapter again."
        )
    if not current.refused and expected is None:
        return
    sha256 = hashlib.sha256(content).hexdigest()
    if expected not in (None, sha256):
        raise TrustError(
            f"{path} is refused: it was changed since it was installed (its sha256 is {sha256}, not {expected}). "
            f"Remove it by adapt remove, and install it again."
        )
    if sha256 in current.refused:
        raise TrustError(f"{path}: {current.refused[sha256]}")


def refused() -> Mapping[str, str]:
    """Return the reasons of refused contents by their SHA-256. Cheap while no file of trust or records changes."""
    return _current().refused


def _current() -> _Known:
    global _known
    files = (trust_file(), policy_file(), *store.record_files())
    stamp = {file: _stamp(file) for file in files}
    if _known is None or _known[0] != stamp:
        _known = stamp, _read()
    return _known[1]


def _read() -> _Known:
    trust, policy = trusted(), read_policy()
    reasons = {
        revocation.sha256: f"the file was revoked on this machine ({revocation.reason}), so it is not used"
        for revocation in trust.revoked
        if revocation.sha256
    }
    contents = {}
    for file in store.record_files():
        try:
            record = store.read_record(file)
        except FileError:
            continue  # find() and verify() report a damaged record
        contents[record.path.resolve()] = record.entry.sha256
        try:
            judge(record.entry, policy, trust, [])
        except TrustError as error:
            name = record.entry.name
            way_out = f"adapt verify {name} tells its state, adapt remove {name} removes it."
            reasons[record.entry.sha256] = f"{str(error).rstrip('.')}. {way_out}"
    return _Known(reasons, contents)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
