"""Provenance and bundles beside a file: the libraries of others verify them, and what was changed is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope

from adaptdock.errors import FileError, TrustError, UsageError
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.hub.registry.index import Revocation
from adaptdock.hub.registry.model_bundle import sign_bundle
from adaptdock.hub.registry.provenance import PAYLOAD, path_beside, sign_provenance, verify_provenance
from adaptdock.hub.registry.signed_state import signer
from adaptdock.hub.registry.trust import new_key, public_key, revoke, trust

ARGUMENTS = {"method": "lora", "method_options": {"rank": 2}, "task_options": {}, "training": {"epochs": 3}}
FILE = {"name": "train.conll", "sha256": "f" * 64}
TRAINING: dict[str, Any] = {
    "arguments": {**ARGUMENTS, "files": [FILE]},
    "data_sha256": {"train": "a" * 64, "test": "b" * 64},
    "libraries": {"adaptdock": "0.1", "torch": "2.13.0+cpu"},
    "python": "3.11.7",
    "precision": "float32",
    "quantized": None,
}


@pytest.fixture
def signed(trained: Path) -> Path:
    """An adapter file with a provenance beside it, signed with the key ``mine``."""
    adapter = read_file(trained)
    card = adapter.card.model_copy(update={"training": TRAINING})
    write_file(trained, AdapterFile(card, adapter.tensors))
    new_key("mine")
    sign_provenance(trained, "mine")
    return trained


def resigned(file: Path, key: str, **changes: Any) -> None:
    """Change the statement beside a file and sign it again."""
    path = path_beside(file)
    statement = json.loads(base64.b64decode(json.loads(path.read_text())["payload"]))
    envelope = Envelope(json.dumps({**statement, **changes}).encode(), PAYLOAD, {})
    envelope.sign(signer(key))
    path.write_text(json.dumps(envelope.to_dict()))


def test_a_provenance_has_the_arguments_data_and_versions_and_names_its_signer(signed: Path) -> None:
    provenance = verify_provenance(signed)
    assert provenance.signer == "this machine's key mine"
    assert {"task": "ner", **ARGUMENTS}.items() <= provenance.arguments.items()
    dependencies = dict(provenance.dependencies)
    assert (dependencies["train.conll"], dependencies["records: train"]) == ("f" * 64, "a" * 64)
    assert dependencies["torch"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    trust("acme", public_key("mine"))
    assert verify_provenance(signed).signer == "acme"


def test_seeds_and_tasks_beside_it_are_in_the_provenance(signed: Path) -> None:
    adapter = read_file(signed)
    training = {**TRAINING, "seeds": {"runs": 3}, "together": ["ner", "pos"]}
    write_file(signed, AdapterFile(adapter.card.model_copy(update={"training": training}), adapter.tensors))
    sign_provenance(signed, "mine")
    arguments = verify_provenance(signed).arguments
    assert (arguments["seeds"], arguments["together"]) == ({"runs": 3}, ["ner", "pos"])


def test_signing_again_gives_the_same_bytes(signed: Path) -> None:
    before = path_beside(signed).read_bytes()
    sign_provenance(signed, "mine")
    assert path_beside(signed).read_bytes() == before


def test_the_library_of_signatures_verifies_the_envelope(signed: Path) -> None:
    envelope = Envelope.from_dict(json.loads(path_beside(signed).read_text()))
    assert envelope.verify([signer("mine").public_key], 1)
    assert envelope.payload_type == "application/vnd.in-toto+json"


def test_the_library_of_in_toto_reads_the_statement(signed: Path) -> None:
    proto = pytest.importorskip("in_toto_attestation.v1.statement", reason="in-toto-attestation is not installed")
    pb2 = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    json_format = pytest.importorskip("google.protobuf.json_format")
    provenance_pb2 = pytest.importorskip("in_toto_attestation.predicates.provenance.v1.provenance_pb2")
    envelope = Envelope.from_dict(json.loads(path_beside(signed).read_text()))
    statement = json_format.Parse(envelope.payload, pb2.Statement())
    proto.Statement.copy_from_pb(statement).validate()
    predicate = json_format.MessageToDict(statement.predicate)
    json_format.ParseDict(predicate, provenance_pb2.Provenance())


def test_a_changed_or_foreign_provenance_is_refused(signed: Path, tmp_path: Path) -> None:
    path = path_beside(signed)
    before = path.read_text()
    content = json.loads(before)
    payload = base64.b64decode(content["payload"]).replace(b"a" * 64, b"c" * 64)
    path.write_text(json.dumps({**content, "payload": base64.b64encode(payload).decode()}))
    with pytest.raises(TrustError, match="no key that is trusted here signed it, or it was changed"):
        verify_provenance(signed)
    path.write_text(before)
    second = tmp_path / "second.safetensors"
    adapter = read_file(signed)
    write_file(second, AdapterFile(adapter.card.model_copy(update={"name": "second"}), adapter.tensors))
    path_beside(second).write_text(before)
    with pytest.raises(TrustError, match="it is the provenance of another file"):
        verify_provenance(second)
    revoke(Revocation(key=public_key("mine"), reason="stolen"))
    with pytest.raises(TrustError, match=r"was revoked \(stolen\)"):
        verify_provenance(signed)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "not a signed envelope"),
        ("{}", "not a signed envelope"),
        ('{"payload": 3, "payloadType": "x", "signatures": []}', "not a signed envelope"),
        ('{"payload": "e30=", "payloadType": "text/plain", "signatures": []}', "not a statement of in-toto"),
        ("{", "not JSON"),
    ],
)
def test_what_is_not_an_envelope_is_refused_in_words(signed: Path, content: str, words: str) -> None:
    path_beside(signed).write_text(content)
    with pytest.raises(FileError, match=words):
        verify_provenance(signed)


def test_another_statement_is_refused_though_signed(signed: Path) -> None:
    for changes in (
        {"predicateType": "https://example.org/other"},
        {"subject": []},
        {"subject": [{"name": "a"}]},
        {"predicate": {}},
        {"predicate": {"buildDefinition": {"externalParameters": 3, "resolvedDependencies": []}}},
    ):
        sign_provenance(signed, "mine")
        resigned(signed, "mine", **changes)
        with pytest.raises(FileError):
            verify_provenance(signed)


def test_a_card_without_a_record_of_its_training_has_no_provenance(trained: Path) -> None:
    new_key("mine")
    with pytest.raises(UsageError, match="does not record the arguments"):
        sign_provenance(trained, "mine")
    assert not path_beside(trained).exists()


def test_a_bundle_is_verified_by_the_library_of_openssf(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "model_signing", reason="model-signing is not installed: pip install 'adaptdock[model-signing]'"
    )
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing import verifying

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(*form))
    bundle = sign_bundle(trained, private)
    assert bundle.name == f"{trained.name}.sig"
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(trained, bundle)
    content = bytearray(trained.read_bytes())
    content[-1] ^= 1
    trained.write_bytes(content)
    with pytest.raises(ValueError, match=r"[Mm]ismatch"):
        verifying.Config().use_elliptic_key_verifier(public_key=public).verify(trained, bundle)
    new_key("ed")
    with pytest.raises(UsageError, match="is not a key on one of the curves secp256r1"):
        sign_bundle(trained, tmp_path / "home" / "keys" / "ed.pem")
    with pytest.raises(FileError, match="the key cannot be read: No such file"):
        sign_bundle(trained, tmp_path / "none.pem")


def test_a_bundle_names_the_extra_where_its_library_is_missing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "model_signing", None)
    with pytest.raises(UsageError, match=r"adaptdock\[model-signing\]"):
        sign_bundle(trained, trained)
