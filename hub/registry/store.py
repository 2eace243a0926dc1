"""The store: adapters that were installed from a source, one version of each, verified before they are there.

An adapter's folder holds its file and a record of where it came from. It changes as a whole or not at all.
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

from adaptdock.errors import FileError, TrustError, UsageError
from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.atomic import whole_file, whole_folder
from adaptdock.hub.artefact.file import read_header
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry.index import Entry, lookalike, unknown
from adaptdock.hub.registry.newest import newest_installed, remember
from adaptdock.hub.registry.sources import Found, Sources, fetched, open_source
from adaptdock.hub.registry.trust import Policy, judge, read_policy, trusted
from adaptdock.plugins.regular import read_regular

RECORD = "record.json"


class Record(BaseModel):
    """An installed adapter: its entry, the source it came from, and who stood for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    entry: Entry
    source: str
    stands: str

    @property
    def path(self) -> Path:
        """The adapter file."""
        return _folder(self.entry.name) / f"{self.entry.name}.safetensors"


class Locked(BaseModel):
    """An adapter that a deployment uses, down to the bytes of its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    version: str
    sha256: str
    source: str


class Lock(BaseModel):
    """A lock file: exactly what a deployment uses."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = 1
    adapters: list[Locked] = Field(default_factory=list)


@dataclass(frozen=True)
class Rules:
    """What an installation has to keep to; what is risky happens only where a person has said so."""

    policy: Policy = field(default_factory=Policy)
    allow_downgrade: bool = False
    allow_lookalike: bool = False


def installed() -> list[Record]:
    """Return the records of all installed adapters, by name; raise :class:`FileError` for a damaged one."""
    return [read_record(file) for file in record_files()]


def record_files() -> list[Path]:
    """Return the files that say what is installed."""
    return sorted(root().glob(f"*/{RECORD}"))


def read_record(file: Path) -> Record:
    """Return the record in a file; raise :class:`FileError` for a damaged one."""
    return read(file, Record)


def find(name: str) -> Record:
    """Return the record of an installed adapter; raise :class:`UnknownNameError` with the nearest names."""
    there = {record.entry.name: record for record in installed()}
    if name not in there:
        raise unknown(name, there)
    return there[name]


def install(sources: Sources, name: str, version: str | None = None, rules: Rules | None = None) -> Record:
    """Install an adapter and return its record; what is there already and the same is left as it is.

    Raises :class:`TrustError` for what rules, signature or file speak against, :class:`UsageError` for what needs
    code that is not there, and what :meth:`Sources.find` and :func:`fetched` raise.
    """
    found = sources.find(name, version)
    return _install(found, rules or Rules(), [entry for _, index in sources.indices() for entry in index.adapters])


def install_locked(lock: Path, rules: Rules | None = None) -> list[Record]:
    """Install what a lock file says, to the byte; raise :class:`TrustError` where a source has something else now."""
    records = []
    for locked in read(lock, Lock).adapters:
        found = Sources([open_source(locked.source)]).find(locked.name, locked.version)
        if found.entry.sha256 != locked.sha256:
            raise TrustError(
                f"{found.entry.label} is refused: {lock} has the sha256 {locked.sha256}, {locked.source} now says "
                f"{found.entry.sha256}"
            )
        exact = Rules((rules or Rules()).policy, allow_downgrade=True, allow_lookalike=True)
        records.append(_install(found, exact, []))
    return records


def write_lock(path: Path) -> Lock:
    """Write a lock file of all that is installed, and return it."""
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
        whole_file(path, lock.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise FileError(path, f"it could not be written: {error.strerror or error}") from error
    return lock


def verify(record: Record) -> str | None:
    """Return what is wrong with an installed adapter now, or None."""
    try:
        found = hashlib.sha256(read_regular(record.path)).hexdigest()
    except OSError as error:
        return f"its file cannot be read: {error.strerror or error}"
    if found != record.entry.sha256:
        return f"its file was changed: the sha256 is {found}, not {record.entry.sha256}"
    try:
        judge(record.entry, read_policy(), trusted(), [])
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


def _install(found: Found, rules: Rules, published: Sequence[Entry]) -> Record:
    record, is_installed = _admitted(found, rules, published)
    if is_installed:
        return record
    entry = record.entry
    with fetched(found.source, entry) as path:
        _check_header(entry, path)
        with changing(root()):
            record, is_installed = _admitted(found, rules, published)  # another process may have been faster
            if is_installed:
                return record
            with whole_folder(_folder(entry.name)) as folder:
                shutil.copyfile(path, folder / record.path.name)
                (folder / RECORD).write_text(record.model_dump_json(indent=2) + "\n")
            remember(entry)
    return record


def _admitted(found: Found, rules: Rules, published: Sequence[Entry]) -> tuple[Record, bool]:
    """Return the record of what is to be installed, or of the same that is installed already, and which it is."""
    entry = found.entry
    there = {record.entry.name: record for record in installed()}
    before = there.get(entry.name)
    if not rules.allow_lookalike:
        _refuse_lookalike(entry, [*(record.entry for record in there.values()), *published])
    stands = judge(entry, rules.policy, trusted(), found.index.revoked)
    _refuse_missing_code(entry)
    if before is not None:
        if before.entry == entry and verify(before) is None:
            return before, True
        _refuse_other(entry, before.entry, rules.allow_downgrade)
    elif not rules.allow_downgrade:
        _refuse_older(entry)
    return Record(entry=entry, source=found.source.name, stands=stands), False


def _refuse_lookalike(entry: Entry, others: Sequence[Entry]) -> None:
    names = {other.name for other in others if other.publisher != entry.publisher}
    other = lookalike(entry.name, names)
    if other is not None:
        raise TrustError(
            f"{entry.label} of {entry.publisher!r} is refused: its name looks like {other!r}, which is of another "
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
            f"{entry.label} is refused: the same version is installed with another content (sha256 {before.sha256}), "
            f"and a version never changes. Remove the installed one first, if you trust the new one."
        )
    if entry.order < before.order and not allow_downgrade:
        raise TrustError(
            f"{entry.label} is refused: version {before.version} is installed, which is newer. If you want the older "
            f"one, say --allow-downgrade."
        )


def _refuse_older(entry: Entry) -> None:
    """Refuse what is older than the version that was removed: an index from before that version would bring it."""
    newest = newest_installed(entry.name)
    if newest is not None and entry.order < Version(newest):
        raise TrustError(
            f"{entry.label} is refused: version {newest} was installed here before it was removed, and is newer, so "
            f"the source is older than what was installed from it. If you want the older one, say --allow-downgrade."
        )


def _check_header(entry: Entry, path: Path) -> None:
    """Refuse a file whose own card says something else than the entry."""
    card = read_header(path).card
    told: dict[str, tuple[object, object]] = {
        "name": (entry.name, card.name),
        "version": (entry.version, card.version),
        "task": (entry.task, card.task.name),
        "methods": (entry.methods, [method.name for method in card.methods]),
        "fingerprint of the backbone": (entry.backbone.fingerprint, card.backbone.fingerprint),
        "licence": (entry.licence, card.licence),
    }
    for what, (said, held) in told.items():
        if said != held:
            raise TrustError(f"{entry.label} is refused: its entry has the {what} {said!r}, its file {held!r}")


def root() -> Path:
    """Return the folder of the installed adapters."""
    return directories.home() / "adapters"


def _folder(name: str) -> Path:
    return root() / name
