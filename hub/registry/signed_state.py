"""The signed state of a registry, for its publisher: metadata of The Update Framework (specification 1.0).

Signatures over entries show who published a file. The signed state also shows that the index is the newest one: it
expires, and its versions only grow. So a server can't pass an old copy to a machine that has never seen the registry.
The only target is the index, which has the hashes of all files. The folder ``metadata`` has a file of each role: root
(the keys of all roles), targets (size and hash of the index), snapshot, and timestamp, which expires first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry.index import Index
from adaptdock.hub.registry.sources import INDEX
from adaptdock.hub.registry.trust import key_names, private_key

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata, Root

FOLDER = "metadata"
ROLES = ("targets", "snapshot", "timestamp")
YEAR = timedelta(days=365)
"""Validity of root, targets and snapshot."""
EXTRA = "pip install 'adaptdock[tuf]'"


@dataclass(frozen=True)
class SignedState:
    """A signed state: the root's file, version and expiry, and the version and expiry of the timestamp."""

    root: Path
    root_version: int
    root_expires: datetime
    version: int
    expires: datetime


def is_signed(folder: Path) -> bool:
    """Return whether the registry in a folder has a signed state."""
    return (folder / FOLDER / "timestamp.json").exists()


def sign_state(
    folder: Path, online: Sequence[str], root_keys: Sequence[str] = (), threshold: int = 1, days: float = 30
) -> SignedState:
    """Sign the state of the registry in a folder, valid for ``days``.

    ``online`` are the names of the private keys for targets, snapshot and timestamp. With ``root_keys`` a new root
    names these keys and the online keys, needs ``threshold`` of the root keys, and is signed by the earlier root's keys
    too, as far as they are on this machine. Raises :class:`UsageError` if signatures are missing or tuf is.
    """
    metadata = folder / FOLDER
    with changing(folder / INDEX):
        read(folder / INDEX, Index)  # refuses a file that is not an index
        try:
            metadata.mkdir(exist_ok=True)
            root = _root(metadata, online, root_keys, threshold)
            return _signed(folder, root, online, timedelta(days=days))
        except OSError as error:
            raise FileError(metadata, f"it could not be written: {error.strerror or error}") from error


def _root(metadata: Path, online: Sequence[str], root_keys: Sequence[str], threshold: int) -> "Metadata[Root]":
    """Return the newest root, after writing a new one if ``root_keys`` are given."""
    from tuf.api.metadata import Metadata, Root

    versions = sorted(int(path.name.partition(".")[0]) for path in metadata.glob("*.root.json"))
    earlier = Metadata[Root].from_file(str(metadata / f"{versions[-1]}.root.json")) if versions else None
    if not root_keys:
        if earlier is None:
            raise UsageError(f"{metadata} has no root yet: name its keys (--root-key NAME, made by adapt key new NAME)")
        return earlier
    if not 1 <= threshold <= len(set(root_keys)):
        raise UsageError(f"a root with {len(set(root_keys))} keys can't need {threshold} signatures")
    number = versions[-1] + 1 if versions else 1
    root = Root(version=number, expires=datetime.now(UTC) + YEAR, consistent_snapshot=False)
    for name in dict.fromkeys(root_keys):
        root.add_key(signer(name).public_key, "root")
    root.roles["root"].threshold = threshold
    for name in dict.fromkeys(online):
        for role in ROLES:
            root.add_key(signer(name).public_key, role)
    new = Metadata(root)
    for name in dict.fromkeys([*root_keys, *(_local_keys(earlier.signed) if earlier else ())]):
        new.sign(signer(name), append=True)
    for judge in [earlier.signed, root] if earlier else [root]:
        _enough(judge, new)
    _write(metadata / f"{number}.root.json", new)
    return new


def _enough(judge: "Root", new: "Metadata[Root]") -> None:
    result = judge.get_verification_result("root", new.signed_bytes, new.signatures)
    if not result.verified:
        raise UsageError(
            f"the new root needs {result.threshold} signatures by keys of root {judge.version}, and this machine has "
            f"the private keys for {len(result.signed)}. Nothing was changed"
        )


def _local_keys(root: "Root") -> list[str]:
    """Return the names of this machine's private keys that the root role of an earlier root has."""
    known = set(root.roles["root"].keyids)
    return [name for name in key_names() if signer(name).public_key.keyid in known]


def _signed(folder: Path, root: "Metadata[Root]", online: Sequence[str], valid: timedelta) -> SignedState:
    from tuf.api.metadata import MetaFile, Snapshot, TargetFile, Targets, Timestamp

    metadata, now = folder / FOLDER, datetime.now(UTC)
    signers = [signer(name) for name in dict.fromkeys(online)]
    allowed = set(root.signed.roles["timestamp"].keyids)
    foreign = [name for name, key in zip(online, signers, strict=False) if key.public_key.keyid not in allowed]
    if foreign or not signers:
        raise UsageError(
            f"root {root.signed.version} does not name the key {', '.join(foreign)}: give --root-key to change the keys"
            if foreign
            else "name a key to sign with (--sign KEY)"
        )
    content = (folder / INDEX).read_bytes()
    target = TargetFile.from_data(INDEX, content, ["sha256"])
    versions = {role: _version(metadata / f"{role}.json") + 1 for role in ROLES}
    parts: dict[str, Any] = {
        "targets": Targets(versions["targets"], expires=now + YEAR, targets={INDEX: target}),
        "snapshot": Snapshot(
            versions["snapshot"], expires=now + YEAR, meta={"targets.json": MetaFile(versions["targets"])}
        ),
        "timestamp": Timestamp(
            versions["timestamp"], expires=now + valid, snapshot_meta=MetaFile(versions["snapshot"])
        ),
    }
    for role, part in parts.items():  # the timestamp last: it makes the others visible
        _write_signed(metadata / f"{role}.json", part, signers)
    number, expires = root.signed.version, parts["timestamp"].expires
    return SignedState(metadata / f"{number}.root.json", number, root.signed.expires, versions["timestamp"], expires)


def _write_signed(path: Path, part: Any, signers: Sequence["CryptoSigner"]) -> None:
    from tuf.api.metadata import Metadata

    signed = Metadata(part)
    for key in signers:
        signed.sign(key, append=True)
    _write(path, signed)


def _version(path: Path) -> int:
    from tuf.api.metadata import Metadata

    return int(Metadata.from_file(str(path)).signed.version) if path.exists() else 0


def _write(path: Path, signed: "Metadata[Any]") -> None:
    from tuf.api.serialization.json import JSONSerializer

    write_atomically(path, signed.to_bytes(JSONSerializer(compact=False)))


def signer(name: str) -> "CryptoSigner":
    """Return a signer with the private key of that name; raise :class:`UsageError` without python-tuf."""
    try:
        from securesystemslib.signer import CryptoSigner
    except ImportError:
        raise UsageError(f"a signed state needs python-tuf: {EXTRA}") from None
    return CryptoSigner(private_key(name))
