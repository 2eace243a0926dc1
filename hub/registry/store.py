"""The store: adapters installed from a source, one version of each, verified before their installation.

An adapter's folder has its file and a record of its origin. The folder changes atomically.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field

from adaptdock.errors import FileError, SourceError, TrustError, UsageError
from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.atomic import atomic_folder, write_atomically
from adaptdock.hub.artefact.file import read_header
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry.index import Entry, Revocation, lookalike, unknown
from adaptdock.hub.registry.newest import newest_installed, remember
from adaptdock.hub.registry.provenance import path_beside
from adaptdock.hub.registry.seen import refuse_older
from adaptdock.hub.registry.sources import Offer, Sources, fetched
from adaptdock.hub.registry.trust import Policy, judge, read_policy, trusted
from adaptdock.hub.registry.verified import open_source
from adaptdock.plugins.regular import read_regular

RECORD = "record.json"
PROVENANCE_LIMIT = 2**20
"""Bytes of a provenance."""


class Record(BaseModel):
    """An installed adapter: its entry, its source, and a phrase about its signer (``stands``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    entry: Entry
    source: str
    stands: str

    @property
    def path(self) -> Path:
        """The path of the adapter file."""
        return _folder(self.entry.name) / f"{self.entry.name}.safetensors"


class Locked(BaseModel):
    """An adapter of a deployment, identified by the SHA-256 of its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    version: str
    sha256: str
    source: str


class Lock(BaseModel):
    """A lock file: the exact adapters of a deployment."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = 1
    adapters: list[Locked] = Field(default_factory=list)


@dataclass(frozen=True)
class Rules:
    """Rules of an installation. Risky steps need explicit permission."""

    policy: Policy = field(default_factory=Policy)
    allow_downgrade: bool = False
    allow_lookalike: bool = False


def installed() -> list[Record]:
    """Return the records of all installed adapters, by name; raise :class:`FileError` for a damaged record."""
    return [read_record(file) for file in record_files()]


def record_files() -> list[Path]:
    """Return the record files of the installed adapters, sorted."""
    return sorted(root().glob(f"*/{RECORD}"))


def read_record(file: Path) -> Record:
    """Return the record in a file; raise :class:`FileError` for a damaged record."""
    return read(file, Record)


def find(name: str) -> Record:
    """Return the record of an installed adapter; raise :class:`UnknownNameError` with the nearest names."""
    record = recorded(name)
    if record is None:
        raise unknown(name, [record.entry.name for record in installed()])
    return record


def recorded(name: str) -> Record | None:
    """Return the record of an adapter; None for a name that is not installed from a registry."""
    return next((record for record in installed() if record.entry.name == name), None)


def install(sources: Sources, name: str, version: str | None = None, rules: Rules | None = None) -> Record:
    """Install an adapter and return its record. An identical installation is left untouched.

    Raises :class:`TrustError` for a violation of rules, signature or file, :class:`UsageError` for missing code, and
    the errors of :meth:`Sources.find` and :func:`fetched`.
    """
    offer = sources.find(name, version)
    return _install(offer, rules or Rules(), [entry for _, index in sources.indices() for entry in index.adapters])


@dataclass(frozen=True)
class Prospect:
    """A published adapter before its installation: its signature, and whether it could be installed."""

    offer: Offer
    signature: str
    """A phrase about the signer."""
    refusal: str
    """Why an installation would be refused; empty if it would not."""
    installed: str | None
    """The installed version."""
    versions: list[str]
    """The versions that the source has, oldest first."""


def prospect(sources: Sources, name: str, version: str | None = None, rules: Rules | None = None) -> Prospect:
    """Return the outlook of an installation without fetching the file; raise the errors of :meth:`Sources.find`."""
    offer = sources.find(name, version)
    entry, published = offer.entry, [entry for _, index in sources.indices() for entry in index.adapters]
    refusal = ""
    try:
        _admitted(offer, rules or Rules(), published)
    except (TrustError, UsageError) as error:
        refusal = str(error)
    try:
        signature = judge(entry, Policy(), trusted(), offer.index.revoked)
    except TrustError as error:
        signature = f"not to be trusted: {error}"
    before = next((record.entry.version for record in installed() if record.entry.name == entry.name), None)
    by_order = sorted(offer.index.adapters, key=lambda published: published.order)
    versions = [published.version for published in by_order if published.name == entry.name]
    return Prospect(offer, signature, refusal, before, versions)


def install_locked(lock: Path, rules: Rules | None = None) -> list[Record]:
    """Install the exact adapters of a lock file; raise :class:`TrustError` if a source has other content now."""
    records = []
    for locked in read(lock, Lock).adapters:
        offer = Sources([open_source(locked.source)]).find(locked.name, locked.version)
        if offer.entry.sha256 != locked.sha256:
            raise TrustError(
                f"{offer.entry.label} is refused: {lock} has the sha256 {locked.sha256}, {locked.source} now says "
                f"{offer.entry.sha256}"
            )
        # A lock file names exact hashes, so older versions and lookalikes are intended.
        exact = Rules((rules or Rules()).policy, allow_downgrade=True, allow_lookalike=True)
        records.append(_install(offer, exact, []))
    return records


def write_lock(path: Path) -> Lock:
    """Write a lock file of all installed adapters, and return its content."""
    lock = Lock(
        adapters=[
            Locked(
                name=record.entry.name,
                version=record.entry.version,
                sha256=record.entry.sha256,
                source=record.source,
            )
            for record in installed()
        ]
    )
    try:
        write_atomically(path, lock.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise FileError(path, f"it could not be written: {error.strerror or error}") from error
    return lock


def verify(record: Record) -> str | None:
    """Return the fault of an installed adapter, or None."""
    return fault(record.entry, record.path, [])


def fault(entry: Entry, path: Path, revoked: list[Revocation]) -> str | None:
    """Return the fault of an adapter's file on this machine, or None; ``revoked`` is of the entry's own source."""
    try:
        sha256 = hashlib.sha256(read_regular(path)).hexdigest()
    except OSError as error:
        return f"its file cannot be read: {error.strerror or error}"
    if sha256 != entry.sha256:
        return f"its file was changed: the sha256 is {sha256}, not {entry.sha256}"
    try:
        judge(entry, read_policy(), trusted(), revoked)
    except TrustError as error:
        return str(error)
    return None


def remove(name: str) -> Record:
    """Remove an installed adapter and return its record."""
    with changing(root()):
        record = find(name)
        try:
            shutil.rmtree(_folder(name))
        except OSError as error:
            raise FileError(_folder(name), f"it could not be removed: {error.strerror or error}") from error
        remember(record.entry)
    return record


def _install(offer: Offer, rules: Rules, published: Sequence[Entry]) -> Record:
    record, is_installed = _admitted(offer, rules, published)
    if is_installed:
        return record
    refuse_older(offer.source.identity, offer.index)
    entry = record.entry
    with fetched(offer.source, entry) as path:
        _check_header(entry, path)
        provenance = _provenance(offer)
        with changing(root()):
            record, is_installed = _admitted(offer, rules, published)  # another process may have been faster
            if is_installed:
                return record
            with atomic_folder(_folder(entry.name)) as folder:
                shutil.copyfile(path, folder / record.path.name)
                if provenance:
                    path_beside(folder / record.path.name).write_bytes(provenance)
                (folder / RECORD).write_text(record.model_dump_json(indent=2) + "\n")
            remember(entry)
    return record


def _provenance(offer: Offer) -> bytes:
    """Return the provenance that was published beside a file, or nothing; ``adapt verify`` checks its signature."""
    try:
        content = b"".join(offer.source.beside(path_beside(Path(offer.entry.file)).as_posix(), PROVENANCE_LIMIT))
    except (SourceError, FileError):  # the adapter was verified without it
        return b""
    return content if len(content) <= PROVENANCE_LIMIT else b""


def _admitted(offer: Offer, rules: Rules, published: Sequence[Entry]) -> tuple[Record, bool]:
    """Return the record of an adapter to install, and False; for an identical installation its record, and True."""
    entry = offer.entry
    records = {record.entry.name: record for record in installed()}
    before = records.get(entry.name)
    if not rules.allow_lookalike:
        _refuse_lookalike(entry, [*(record.entry for record in records.values()), *published])
    stands = judge(entry, rules.policy, trusted(), offer.index.revoked)
    _refuse_missing_code(entry)
    if before is not None:
        if before.entry == entry and verify(before) is None:
            return before, True
        _refuse_other(entry, before.entry, rules.allow_downgrade)
    elif not rules.allow_downgrade:
        _refuse_older(entry)
    return Record(entry=entry, source=offer.source.name, stands=stands), False


def _refuse_lookalike(entry: Entry, others: Sequence[Entry]) -> None:
    names = {published.name for published in others if published.publisher != entry.publisher}
    similar = lookalike(entry.name, names)
    if similar is not None:
        raise TrustError(
            f"{entry.label} of {entry.publisher!r} is refused: its name looks like {similar!r}, which is of another "
            f"publisher. If it is what you want, say --allow-lookalike."
        )


def _refuse_missing_code(entry: Entry) -> None:
    missing = [name for name in entry.needs if not _is_installed(name)]
    if missing:
        raise UsageError(
            f"{entry.label} needs plugins, which are code that runs on this machine, of {', '.join(missing)}. If you "
            f"trust them: pip install {' '.join(missing)}"
        )


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _refuse_other(entry: Entry, before: Entry, allow_downgrade: bool) -> None:
    if entry.order == before.order and entry.sha256 != before.sha256:
        raise TrustError(
            f"{entry.label} is refused: the same version is installed with other content (sha256 {before.sha256}), "
            f"and a version never changes. Remove the installed one first, if you trust the new one."
        )
    if entry.order < before.order and not allow_downgrade:
        raise TrustError(
            f"{entry.label} is refused: version {before.version} is installed, which is newer. If you want the older "
            f"one, say --allow-downgrade."
        )


def _refuse_older(entry: Entry) -> None:
    """Refuse a version older than the removed version: an outdated index would offer it."""
    newest = newest_installed(entry.name)
    if newest is not None and entry.order < Version(newest):
        raise TrustError(
            f"{entry.label} is refused: version {newest} was installed here before it was removed, and is newer, so "
            f"the source is older than what was installed from it. If you want the older one, say --allow-downgrade."
        )


def _check_header(entry: Entry, path: Path) -> None:
    """Refuse a file whose card contradicts the entry."""
    card = read_header(path).card
    facts: dict[str, tuple[object, object]] = {
        "name": (entry.name, card.name),
        "version": (entry.version, card.version),
        "task": (entry.task, card.task.name),
        "methods": (entry.methods, [method.name for method in card.methods]),
        "fingerprint of the backbone": (entry.backbone.fingerprint, card.backbone.fingerprint),
        "licence": (entry.licence, card.licence),
    }
    for fact, (published, actual) in facts.items():
        if published != actual:
            raise TrustError(f"{entry.label} is refused: its entry has the {fact} {published!r}, its file {actual!r}")


def root() -> Path:
    """Return the folder of the installed adapters, which may be missing."""
    return directories.home() / "adapters"


def _folder(name: str) -> Path:
    return root() / name
