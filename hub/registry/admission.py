"""Admission: checks at each read of a file, not only at installation, whether the adapter may be used.

Adapters are recognized by content: a copy of a refused file is refused too.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptdock.errors import FileError, TrustError
from adaptdock.hub.artefact.file import AdapterFile, read_file
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry import store
from adaptdock.hub.registry.included import carried, own_index
from adaptdock.hub.registry.index import Entry, Revocation
from adaptdock.hub.registry.installed import locate
from adaptdock.hub.registry.trust import Policy, judge, policy_file, read_policy, trust_file, trusted
from adaptdock.hub.registry.verified import own_source

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
    """Reasons of refused contents by their SHA-256, and signed contents.

    ``installed`` has the expected SHA-256 of each installed or included file, and the way out if the file has another.
    """

    refused: Mapping[str, str]
    installed: Mapping[Path, tuple[str, str]]
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
    expected, way_out = current.installed.get(path, (None, ""))
    if expected is None and path.is_relative_to(store.root().resolve()):
        raise TrustError(
            f"{path} is refused: it is in the folder of the installed adapters without a record that can be read. "
            f"Delete {path.parent}, and install the adapter again."
        )
    sha256 = hashlib.sha256(content).hexdigest()
    if expected not in (None, sha256):
        raise TrustError(
            f"{path} is refused: it was changed since it was installed (its sha256 is {sha256}, not {expected}). "
            f"{way_out}"
        )
    reason = _refusal(current, sha256, requirements)
    if reason:
        raise TrustError(f"{path}: {reason}")


def refusal(sha256: str, requirements: Requirements = NONE) -> str:
    """Return why the content of an adapter file may not be used now, by its SHA-256; empty if it may.

    Cheap while no file of trust, records or lock changes. Raises :class:`FileError` for such a file that is damaged.
    """
    return _refusal(_current(), sha256, requirements)


def _refusal(current: _Known, sha256: str, requirements: Requirements) -> str:
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
    files = (trust_file(), policy_file(), Path(own_source()), *store.record_files())
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
    for present in (*_included(policy), *_installed(policy)):
        entry = present.entry
        contents[present.path.resolve()] = entry.sha256, present.if_changed
        try:
            judge(entry, present.policy, trust, present.revoked)
        except TrustError as error:
            reasons[entry.sha256] = f"{str(error).rstrip('.')}. {present.if_refused}".rstrip()
        try:
            judge(entry, Policy(signed_only=True), trust, present.revoked)
        except TrustError:
            continue
        signed.add(entry.sha256)
    return _Known(reasons, contents, frozenset(signed), policy.signed_only)


@dataclass(frozen=True)
class _Present:
    """An adapter on this machine: the policy and revocations for it, and the ways out if it is refused or changed."""

    entry: Entry
    path: Path
    policy: Policy
    revoked: list[Revocation]
    if_refused: str
    if_changed: str


def _installed(policy: Policy) -> Iterator[_Present]:
    if_changed = "Remove it by adapt remove, and install it again."
    for file in store.record_files():
        try:
            record = store.read_record(file)
        except FileError:
            continue  # find() and verify() report a damaged record
        name = record.entry.name
        if_refused = f"adapt verify {name} shows its state, adapt remove {name} removes it."
        yield _Present(record.entry, record.path, policy, [], if_refused, if_changed)


def _included(policy: Policy) -> Iterator[_Present]:
    """Yield what the package carries. :func:`refusal` checks by content whether it has to be signed."""
    unsigned = policy.model_copy(update={"signed_only": False})
    if_changed = "Install the Python package adaptdock again."
    revoked = own_index().revoked
    for entry, path in carried():
        yield _Present(entry, path, unsigned, revoked, "", if_changed)


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
