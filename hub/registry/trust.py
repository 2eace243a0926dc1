"""Trust: Ed25519 signatures (RFC 8032) over entries by keys of publishers, and a policy for installation and use.

The signed bytes are the entry as canonical JSON without its signature: sorted keys, no spaces, UTF-8. The entry has
the hash of the file, so the signature covers the file too.
"""

import base64
import binascii
import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from adaptdock.errors import FileError, TrustError, UnknownNameError, UsageError
from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry.index import Entry, Revocation

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DOMAIN = b"adaptdock registry entry, version 1\0"  # keeps a signature from being valid for other data
ALGORITHM = "ed25519:"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trusted(_Model):
    """The trust of this machine: the keys of each publisher, and revocations."""

    publishers: dict[str, list[str]] = {}
    revoked: list[Revocation] = []


class Policy(_Model):
    """The policy for published adapters; an empty list allows all publishers or licences."""

    signed_only: bool = False
    """Allow only entries signed by a key of a trusted publisher."""
    publishers: list[str] = []
    licences: list[str] = []


# -------------------------------------------------------------------------------------------- keys


def new_key(name: str) -> str:
    """Generate a private key in this machine's folder of keys and return its public key.

    Raises :class:`UsageError` for a taken name.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = _key_file(name)
    key = Ed25519PrivateKey.generate()
    blob = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # O_EXCL: an existing key must never be overwritten; 0600: only the owner may read it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(blob)
    except FileExistsError:
        raise UsageError(f"there is a key named {name!r} already, in {path}; give another name") from None
    except OSError as error:
        raise FileError(path, f"the key could not be saved: {error.strerror or error}") from error
    return public_key(name)


def public_key(name: str) -> str:
    """Return the public key of a private key, as ``ed25519:`` and base64."""
    from cryptography.hazmat.primitives import serialization

    raw = private_key(name).public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return ALGORITHM + base64.b64encode(raw).decode()


def key_names() -> list[str]:
    """Return the names of this machine's private keys, sorted."""
    return sorted(path.stem for path in _keys().glob("*.pem"))


def sign(entry: Entry, key: str) -> Entry:
    """Return an entry signed with the private key of that name."""
    keyed = entry.model_copy(update={"key": public_key(key), "signature": ""})
    signature = base64.b64encode(private_key(key).sign(_signed(keyed))).decode()
    return keyed.model_copy(update={"signature": signature})


def private_key(name: str) -> "Ed25519PrivateKey":
    """Return the private key of that name; raise :class:`UnknownNameError` with the names on this machine."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = _key_file(name)
    if not path.exists():
        raise UnknownNameError("key", name, key_names(), "Make one by adapt key new NAME.")
    return load_pem_private_key(path.read_bytes(), password=None)  # type: ignore[return-value]


def _keys() -> Path:
    return directories.home() / "keys"


def _key_file(name: str) -> Path:
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"the name {name!r} cannot be used for a key: letters, digits, '-' and '_' are fine")
    return _keys() / f"{name}.pem"


# ------------------------------------------------------------------------------------- whom to trust


def trusted() -> Trusted:
    """Return the trust of this machine, empty by default."""
    path = trust_file()
    return read(path, Trusted) if path.exists() else Trusted()


def trust(publisher: str, key: str) -> None:
    """Trust a key of a publisher from now on; raise :class:`UsageError` for an invalid key."""
    raw_key(key)
    with changing(trust_file()):
        state = trusted()
        keys = list(dict.fromkeys([*state.publishers.get(publisher, []), key]))
        _save(state.model_copy(update={"publishers": {**state.publishers, publisher: keys}}))


def distrust(publisher: str, key: str | None = None) -> None:
    """Remove the trust in a publisher, or in one key; raise :class:`UnknownNameError` if there is none."""
    with changing(trust_file()):
        state = trusted()
        if publisher not in state.publishers:
            raise UnknownNameError("publisher", publisher, state.publishers)
        if key is not None and key not in state.publishers[publisher]:
            raise UnknownNameError(f"key of {publisher}", key, state.publishers[publisher])
        remaining = [other_key for other_key in state.publishers[publisher] if key is not None and other_key != key]
        others = {name: keys for name, keys in state.publishers.items() if name != publisher}
        _save(state.model_copy(update={"publishers": {**others, **({publisher: remaining} if remaining else {})}}))


def revoke(revocation: Revocation) -> None:
    """Refuse a key or a file from now on, also if it is installed already."""
    with changing(trust_file()):
        state = trusted()
        _save(state.model_copy(update={"revoked": [*state.revoked, revocation]}))


def _save(state: Trusted) -> None:
    path = trust_file()
    try:
        write_atomically(path, state.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise FileError(path, f"it could not be saved: {error.strerror or error}") from error


def trust_file() -> Path:
    """Return the file with the trusted keys and the revocations."""
    return directories.home() / "trust.json"


# -------------------------------------------------------------------------------------------- policy


def policy_file() -> Path:
    """Return the file of this machine's policy, which may be missing."""
    return directories.home() / "policy.toml"


def read_policy(path: Path | None = None) -> Policy:
    """Return the policy in a TOML file, by default this machine's; without a file, it allows everything."""
    file = path or policy_file()
    if path is None and not file.exists():
        return Policy()
    try:
        return Policy.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise FileError(file, f"it cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileError(file, f"not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise FileError(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def judge(entry: Entry, policy: Policy, state: Trusted, revoked: list[Revocation]) -> str:
    """Return a phrase about the signer of an entry; raise :class:`TrustError` with the reason for a refusal.

    ``revoked`` are the revocations of the entry's own source.
    """
    for revocation in [*state.revoked, *revoked]:
        if revocation.sha256 == entry.sha256 or (revocation.key and revocation.key == entry.key):
            subject = "its file" if revocation.sha256 else "the key that signed it"
            raise TrustError(f"{entry.label} is refused: {subject} was revoked ({revocation.reason})")
    if entry.signature:
        _verify(entry)
    keys = state.publishers.get(entry.publisher, [])
    if keys and entry.key not in keys:
        how = "is signed with another key" if entry.key else "is not signed"
        raise TrustError(
            f"{entry.label} is refused: it claims to be of {entry.publisher!r}, whose keys are known here, but it {how}"
        )
    if policy.signed_only and not keys:
        raise TrustError(
            f"{entry.label} is refused: the policy allows only files signed by a trusted publisher, and "
            f"{entry.publisher!r} is not trusted. Add a key that you know to be authentic by adapt trust add."
        )
    if policy.publishers and entry.publisher not in policy.publishers:
        raise TrustError(
            f"{entry.label} is refused: the policy allows the publishers {', '.join(policy.publishers)}, this one is "
            f"{entry.publisher!r}"
        )
    if policy.licences and entry.licence not in policy.licences:
        raise TrustError(
            f"{entry.label} is refused: the policy allows the licences {', '.join(policy.licences)}, this one is "
            f"{entry.licence!r}"
        )
    if keys:
        return f"signed by {entry.publisher}, who is trusted here"
    return "signed, by a key that is not known here" if entry.key else "not signed"


def _verify(entry: Entry) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        signature = base64.b64decode(entry.signature, validate=True)
        Ed25519PublicKey.from_public_bytes(raw_key(entry.key)).verify(signature, _signed(entry))
    except (InvalidSignature, binascii.Error, UsageError):
        raise TrustError(
            f"{entry.label} is refused: its signature does not fit its key and content, so one of the three was changed"
        ) from None


def _signed(entry: Entry) -> bytes:
    content = entry.model_dump(mode="json", exclude={"signature"}, exclude_none=True)
    return DOMAIN + json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def raw_key(key: str) -> bytes:
    """Return the 32 bytes of a public key; raise :class:`UsageError` for anything else."""
    try:
        raw = base64.b64decode(key.removeprefix(ALGORITHM), validate=True)
    except binascii.Error:
        raw = b""
    if not key.startswith(ALGORITHM) or len(raw) != 32:
        raise UsageError(
            f"{key!r} is not a public key: write {ALGORITHM} and 32 bytes in base64, as adapt key show does"
        )
    return raw
