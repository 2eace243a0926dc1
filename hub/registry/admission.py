"""Admission: checks at each read of a file, not only at installation, whether the adapter may be used.

Adapters are recognized by content: a copy of a refused file is refused too.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptdock.errors import FileError, TrustError
from adaptdock.hub.artefact.file import AdapterFile, read_file
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry import store
from adaptdock.hub.registry.installed import locate
from adaptdock.hub.registry.trust import Policy, judge, policy_file, read_policy, trust_file, trusted

Stamp = Mapping[Path, tuple[int, int, int] | None]


@dataclass(frozen=True)
class Requirements:
    """Requirements on adapters in use, besides this machine's policy and revocations."""

    signed: bool = False
    """Allow only contents of installed entries that a trusted publisher has signed."""
    lock: Path | None = None
    """Allow only the contents in this lock file."""
    publishing: bool = False
    """Allow contents that nobody has signed yet, whatever the policy says."""


NONE = Requirements()


@dataclass(frozen=True)
class _Known:
    """Reasons of refused contents by their SHA-256, the expected SHA-256 of each installed file, signed contents."""

    refused: Mapping[str, str]
    installed: Mapping[Path, str]
    signed: frozenset[str]
    signed_only: bool


_known: tuple[Stamp, _Known] | None = None
_locks: dict[Path, tuple[Stamp, frozenset[str]]] = {}


def read_adapter(name: str | Path, requirements: Requirements = NONE) -> AdapterFile:
    """Read an adapter to use, from its path or its name.

    Raises :class:`TrustError` if the adapter is revoked, not allowed by policy or requirements, or changed after its
    installation; and the errors of :func:`locate` and :func:`read_file`.
    """
    path = locate(name)
    return read_file(path, lambda content: admit(path, content, requirements))


def admit(path: Path, content: bytes, requirements: Requirements = NONE) -> None:
    """Raise :class:`TrustError` if the content of an adapter file may not be used now."""
    current, path = _current(), path.resolve()
    expected = current.installed.get(path)
    if expected is None and path.is_relative_to(store.root().resolve()):
        raise TrustError(
            f"{path} is refused: it is in the folder of the installed adapters without a record that can be read. "
            f"Delete {path.parent}, and install the adapter again."
        )
    sha256 = hashlib.sha256(content).hexdigest()
    if expected not in (None, sha256):
        raise TrustError(
            f"{path} is refused: it was changed since it was installed (its sha256 is {sha256}, not {expected}). "
            f"Remove it by adapt remove, and install it again."
        )
    reason = refusal(sha256, requirements)
    if reason:
        raise TrustError(f"{path}: {reason}")


def refusal(sha256: str, requirements: Requirements = NONE) -> str:
    """Return why the content of an adapter file may not be used now, by its SHA-256; empty if it may.

    Cheap while no file of trust, records or lock changes. Raises :class:`FileError` for such a file that is damaged.
    """
    current = _current()
    if sha256 in current.refused:
        return current.refused[sha256]
    if (requirements.signed or (current.signed_only and not requirements.publishing)) and sha256 not in current.signed:
        rule = "signed adapters are required here" if requirements.signed else "the policy allows only signed adapters"
        return (
            f"{rule}, and no installed adapter with this content (sha256 {sha256}) is signed by a trusted publisher. "
            f"Install it from its publisher with adapt install, and add a key that you know to be authentic with adapt "
            f"trust add."
        )
    if requirements.lock is not None and sha256 not in _locked(requirements.lock):
        return (
            f"the lock file {requirements.lock} names no adapter with this content (sha256 {sha256}). Install the "
            f"adapters of the file with adapt install --locked, or write a new file with adapt install --lock."
        )
    return ""


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
    contents, signed = {}, set()
    for file in store.record_files():
        try:
            record = store.read_record(file)
        except FileError:
            continue  # find() and verify() report a damaged record
        entry = record.entry
        contents[record.path.resolve()] = entry.sha256
        try:
            judge(entry, policy, trust, [])
        except TrustError as error:
            way_out = f"adapt verify {entry.name} shows its state, adapt remove {entry.name} removes it."
            reasons[entry.sha256] = f"{str(error).rstrip('.')}. {way_out}"
        try:
            judge(entry, Policy(signed_only=True), trust, [])
        except TrustError:
            continue
        signed.add(entry.sha256)
    return _Known(reasons, contents, frozenset(signed), policy.signed_only)


def _locked(file: Path) -> frozenset[str]:
    stamp = {file: _stamp(file)}
    if file not in _locks or _locks[file][0] != stamp:
        _locks[file] = stamp, frozenset(locked.sha256 for locked in read(file, store.Lock).adapters)
    return _locks[file][1]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
