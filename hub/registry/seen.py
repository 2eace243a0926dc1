"""The signed entries and revocations of each source that installations have seen, against replay of an older index.

A publisher only adds versions and revocations (:mod:`withdrawal`), so an index that lacks a known entry is an older
copy. Its server hides a newer version, or the revocation of a stolen key.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from adaptdock.errors import FileError, TrustError, UnknownNameError
from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry.index import Index


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    signed: list[str] = []
    """Labels of signed entries, such as ``ner@1``."""
    revoked: list[str] = []
    """Revoked keys and hashes."""


class _Seen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    sources: dict[str, _State] = {}


def refuse_older(source: str, index: Index) -> None:
    """Raise :class:`TrustError` for an index without all entries of the source's earlier index; else remember it."""
    path = _file()
    with changing(path):
        seen = _read()
        before, now = seen.sources.get(source, _State()), _state(index)
        lacking = [*sorted(set(before.signed) - set(now.signed)), *sorted(set(before.revoked) - set(now.revoked))]
        if lacking:
            kind = "signed entry" if lacking[0] in before.signed else "revocation of"
            raise TrustError(
                f"{source} is refused: its index lacks the {kind} {lacking[0]}, which it had before, so it is an older "
                f"copy. If its publisher has removed the entry on purpose: adapt trust forget {source}"
            )
        if now != before:
            _write(path, _Seen(sources={**seen.sources, source: now}))


def forget(source: str) -> None:
    """Forget the entries and revocations of a source; raise :class:`UnknownNameError` for a source never seen."""
    path = _file()
    with changing(path):
        seen = _read()
        if source not in seen.sources:
            raise UnknownNameError("source", source, seen.sources)
        _write(path, _Seen(sources={name: state for name, state in seen.sources.items() if name != source}))


def _state(index: Index) -> _State:
    revoked = {revocation.key or revocation.sha256 for revocation in index.revoked}
    return _State(signed=sorted(entry.label for entry in index.adapters if entry.key), revoked=sorted(revoked))


def _read() -> _Seen:
    path = _file()
    return read(path, _Seen) if path.exists() else _Seen()


def _write(path: Path, seen: _Seen) -> None:
    try:
        write_atomically(path, seen.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise FileError(path, f"it could not be saved: {error.strerror or error}") from error


def _file() -> Path:
    return directories.home() / "seen.json"
