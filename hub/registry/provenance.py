"""Provenance: a signed statement on the training of an adapter file, in the form of in-toto and SLSA.

The statement (in-toto Statement v1, predicate SLSA Provenance v1) names the file by its SHA-256, and has the arguments
of the training, the hashes of the data, the backbone and the versions of the libraries, from the card. It is signed in
an envelope of the DSSE form, with keys of ``adapt key``, in a file beside the adapter, ``FILE.intoto.jsonl``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from adaptdock.errors import FileError, TrustError, UsageError
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import read_header_of
from adaptdock.hub.artefact.strict_json import parse_json
from adaptdock.hub.artefact.training_record import training_record
from adaptdock.hub.registry.signed_state import EXTRA, signer
from adaptdock.hub.registry.trust import key_names, public_key, raw_key, trusted
from adaptdock.plugins.regular import read_regular

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

SUFFIX = ".intoto.jsonl"
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
PAYLOAD = "application/vnd.in-toto+json"
BUILD, BUILDER = "urn:adaptdock:training:1", "urn:adaptdock:command"


@dataclass(frozen=True)
class Provenance:
    """A verified provenance: its statement, and the signer in words."""

    statement: Mapping[str, Any]
    signer: str

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments of the training."""
        parameters: Mapping[str, Any] = self.statement["predicate"]["buildDefinition"]["externalParameters"]
        return parameters

    @property
    def dependencies(self) -> list[tuple[str, str]]:
        """Name, and hash or address, of each input of the training: data, backbone, libraries."""
        entries = self.statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        return [(str(entry.get("name", "")), _identity(entry)) for entry in entries]


def _identity(entry: Mapping[str, Any]) -> str:
    digest = entry.get("digest")
    return " ".join(map(str, digest.values())) if isinstance(digest, Mapping) else str(entry.get("uri", ""))


def path_beside(file: Path) -> Path:
    """Return the path of the provenance of an adapter file."""
    return file.with_name(file.name + SUFFIX)


def statement(name: str, sha256: str, card: Card) -> dict[str, Any]:
    """Return the statement on a file; raise :class:`UsageError` for a card without a record of its training."""
    record = training_record(card)
    if record is None:
        raise UsageError(
            f"the card of {card.name!r} does not record the arguments of its training (imported, combined, or of an "
            f"older release), so a provenance cannot be signed"
        )
    files = [{"name": file.name, "digest": {"sha256": file.sha256}} for file in record.arguments.files]
    records = [
        {"name": f"records: {split}", "digest": {"sha256": digest}} for split, digest in record.data_sha256.items()
    ]
    backbone = {"name": "backbone", "uri": f"urn:adaptdock:backbone:{quote(card.backbone.id, safe='')}"}
    libraries = {**record.libraries, "python": record.python}
    arguments = record.arguments.model_dump(mode="json", exclude={"files"}, exclude_none=True)
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"task": card.task.name, **arguments, **_circumstances(card)},
                "internalParameters": {"precision": record.precision, "quantized": record.quantized},
                "resolvedDependencies": [
                    *files,
                    *records,
                    {**backbone, "annotations": {"fingerprint": card.backbone.fingerprint}},
                    *(
                        {"name": name, "uri": f"pkg:{_package(name)}@{quote(version, safe='')}"}
                        for name, version in libraries.items()
                    ),
                ],
            },
            "runDetails": {"builder": {"id": BUILDER, "version": {"adaptdock": libraries.get("adaptdock", "")}}},
        },
    }


def _circumstances(card: Card) -> dict[str, Any]:
    """Return what the arguments of one task do not say: adapters below it, tasks beside it, seeds, and rounds."""
    below = [base.model_dump(mode="json") for base in card.on]
    names = ("together", "seeds", "self_training")
    further = {name: card.training[name] for name in names if name in card.training}
    return {**further, **({"on": below} if below else {})}


def _package(library: str) -> str:
    """Return type and name of a library in a package URL; Python itself is not a package of PyPI."""
    return "generic/python" if library == "python" else f"pypi/{library}"


def sign_provenance(file: Path, key: str) -> Path:
    """Sign the provenance of an adapter file with the private key of that name, and return the path beside the file.

    Equal files and keys give equal bytes. Raises :class:`UsageError` for a card without a record of its training, and
    where python-tuf, which has the library of signatures, is not installed.
    """
    signing_key = signer(key)
    from securesystemslib.dsse import Envelope

    content = _content(file)
    card = read_header_of(content, file).card
    claim = statement(file.name, hashlib.sha256(content).hexdigest(), card)
    payload = json.dumps(claim, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    envelope = Envelope(payload, PAYLOAD, {})
    envelope.sign(signing_key)
    path = path_beside(file)
    try:
        write_atomically(path, json.dumps(envelope.to_dict(), sort_keys=True).encode() + b"\n")
    except OSError as error:
        raise FileError(path, f"it could not be written: {error.strerror or error}") from error
    return path


def verify_provenance(file: Path) -> Provenance:
    """Return the provenance beside an adapter file, after verifying its signature and the hash of the file.

    Keys of trusted publishers and of this machine count, unless they are revoked. Raises :class:`TrustError` with the
    reason of a refusal, and :class:`FileError` for a damaged file.
    """
    path = path_beside(file)
    claim, owner = _verified(parse_json(_content(path), path), path)
    try:
        (subject,) = claim["subject"]
        expected, definition = subject["digest"]["sha256"], claim["predicate"]["buildDefinition"]
        arguments, inputs = definition["externalParameters"], definition["resolvedDependencies"]
        shaped = isinstance(arguments, dict) and all(isinstance(entry, dict) for entry in inputs)
    except (KeyError, TypeError, ValueError):
        raise FileError(path, "its statement is not that of one adapter file") from None
    if (claim.get("_type"), claim.get("predicateType")) != (STATEMENT, PREDICATE) or not shaped:
        raise FileError(path, f"it is not a {STATEMENT} with the predicate {PREDICATE}")
    sha256 = hashlib.sha256(_content(file)).hexdigest()
    if sha256 != expected:
        raise TrustError(f"{path} is refused: it is the provenance of another file (sha256 {expected}, not {sha256})")
    return Provenance(claim, owner)


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise FileError(path, f"it cannot be read: {error.strerror or error}") from None


def _verified(envelope: Any, path: Path) -> tuple[dict[str, Any], str]:
    """Return the statement of an envelope and its signer in words; raise :class:`TrustError` without a known one."""
    try:
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import VerificationError
    except ImportError:
        raise UsageError(f"a provenance needs python-tuf: {EXTRA}") from None
    try:
        signed = Envelope.from_dict(envelope)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FileError(path, "it is not a signed envelope (DSSE)") from None
    if signed.payload_type != PAYLOAD:
        raise FileError(path, f"its payload is {signed.payload_type!r}, not a statement of in-toto ({PAYLOAD})")
    for owner, key in _known_keys():
        try:
            signed.verify([_library_key(key)], 1)
        except VerificationError:
            continue
        revoked = next((revocation for revocation in trusted().revoked if revocation.key == key), None)
        if revoked is not None:
            raise TrustError(f"{path} is refused: the key of {owner} that signed it was revoked ({revoked.reason})")
        claim = parse_json(signed.payload, path)
        if not isinstance(claim, dict):
            raise FileError(path, f"its payload is not a statement of in-toto ({PAYLOAD})")
        return claim, owner
    raise TrustError(
        f"{path} is refused: no key that is trusted here signed it, or it was changed since. If you know the key of "
        f"the signer: adapt trust add PUBLISHER KEY"
    )


def _known_keys() -> Iterable[tuple[str, str]]:
    """Yield owner and public key: those of trusted publishers first, then those of this machine."""
    for publisher, keys in trusted().publishers.items():
        for key in keys:
            yield publisher, key
    for name in key_names():
        yield f"this machine's key {name}", public_key(name)


def _library_key(key: str) -> "SSlibKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.signer import SSlibKey

    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(raw_key(key)))
