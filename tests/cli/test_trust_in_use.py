"""Every command that uses an adapter refuses an installed one that was revoked since, by its name and as a copy."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import TrustError
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.hub.registry.admission import Requirements
from adaptdock.hub.registry.trust import distrust, public_key, trusted

REVOKED = "places@1 is refused: the key that signed it was revoked (stolen)"


@pytest.fixture
def installed(adapt: Any, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of ``places``, published by acme, signed, trusted and installed."""
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTDOCK_SOURCES", str(tmp_path / "registry"))
    given = read_file(adapter)
    metrics = {"test": {"f1": 50.0}}
    write_file(
        tmp_path / "m.safetensors", AdapterFile(given.card.model_copy(update={"metrics": metrics}), given.tensors)
    )
    key = adapt("key", "new", "acme").out.strip()
    about = ["--test-set", "towns", "--licence", "MIT", "--language", "en", "--description", "Places."]
    assert adapt("publish", "m.safetensors", "--publisher", "acme", *about, "--sign", "acme").status == 0
    adapt("trust", "add", "acme", key)
    assert adapt("install", "places").status == 0
    return tmp_path / "home" / "adapters" / "places" / "places.safetensors"


def commands(adapter: object, model: Path, folder: Path) -> dict[str, list[object]]:
    """Return arguments that use an adapter, by what they are of."""
    train = ["train", "--task", "ner", "--backbone", model, "--data", folder, "--precision", "fp32"]
    about = ["--publisher", "acme", "--test-set", "t", "--registry", "other"]
    return {
        "predict": ["predict", adapter, "ada lives in rome", "--backbone", model],
        "eval": ["eval", adapter, "--data", folder, "--backbone", model],
        "merge": ["merge", adapter, "-o", "merged", "--backbone", model],
        "combine": ["combine", adapter, adapter, "--weights", "1,1", "-o", "c.safetensors", "--backbone", model],
        "head": ["combine", "m.safetensors", "--weights", "1", "--head", adapter, "-o", "c.safetensors"],
        "export": ["export", adapter, "--to", "out", "--backbone", model],
        "push": ["push", adapter, "--to", "http://127.0.0.1:9"],
        "publish": ["publish", adapter, *about],
        "on": [*train, "--on", adapter],
        "members": [*train, "--method", "fusion", "--members", f"m.safetensors,{adapter}"],
    }


@pytest.mark.parametrize("command", list(commands("", Path(), Path())))
def test_a_revoked_adapter_is_refused(
    adapt: Any, installed: Path, model_folder: Path, data: Path, command: str, tmp_path: Path
) -> None:
    adapt("trust", "revoke", "--key", public_key("acme"), "--reason", "stolen")
    write_file(tmp_path / "m.safetensors", changed(tmp_path / "m.safetensors"))  # another content than the revoked one
    shutil.copy(installed, tmp_path / "copy.safetensors")
    before = {path.name for path in tmp_path.iterdir()}
    named = installed if command in ("on", "members") else "places"
    for adapter in (named, tmp_path / "copy.safetensors"):
        adapt(*commands(adapter, model_folder, data)[command]).failed(1, REVOKED, "adapt remove places removes it")
    assert {path.name for path in tmp_path.iterdir()} == before


def changed(path: Path) -> AdapterFile:
    given = read_file(path)
    return AdapterFile(given.card.model_copy(update={"description": "another"}), given.tensors)


def test_a_revoked_adapter_is_not_docked_nor_served(
    adapt: Any, installed: Path, backbone: Any, model_folder: Path
) -> None:
    dock = Dock(backbone)
    assert dock.load("places") == "places"
    adapt("trust", "revoke", "--key", public_key("acme"), "--reason", "stolen")
    with pytest.raises(TrustError, match="stolen"):
        dock.load("places", "again")
    assert dock.names == ["places"]
    dock.close()
    shutil.copytree(installed.parent, "served", ignore=shutil.ignore_patterns("*.json"))
    ran = adapt("serve", "--check", "--adapters", "served", "--backbone", model_folder, "--port", "0")
    ran.failed(2, "1 adapters cannot be served", "was revoked (stolen)")


def test_it_is_used_as_long_as_it_is_trusted_and_looked_at_afterwards(
    adapt: Any, installed: Path, model_folder: Path
) -> None:
    assert adapt("predict", "places", "ada", "--backbone", model_folder).status == 0
    adapt("trust", "revoke", "--key", public_key("acme"), "--reason", "stolen")
    assert adapt("inspect", "places").status == 0
    assert "revoked (stolen)" in json.loads(adapt("verify", "--json").out)[0]["problem"]
    assert adapt("remove", "places").status == 0


def test_the_policy_and_the_file_itself_are_asked_too(adapt: Any, installed: Path, model_folder: Path) -> None:
    predict = ["predict", "places", "ada", "--backbone", model_folder]
    policy = installed.parents[2] / "policy.toml"
    policy.write_text('licences = ["CC0-1.0"]\n')
    adapt(*predict).failed(1, "the policy allows the licences CC0-1.0")
    assert adapt("verify").status == 1
    policy.write_text("signed_only = true\n")
    assert adapt(*predict).status == 0
    distrust("acme")
    assert not trusted().publishers
    adapt(*predict).failed(1, "the policy allows only files signed by a trusted publisher")
    policy.unlink()
    write_file(installed, changed(installed))
    adapt(*predict).failed(1, "it was changed since it was installed")
    (installed.parent / "record.json").unlink()
    adapt("predict", installed, "ada", "--backbone", model_folder).failed(1, "without a record")


def test_a_hash_is_refused_wherever_the_file_is(
    adapt: Any, adapter: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path / "home"))
    predict = ["predict", adapter, "ada", "--backbone", model_folder]
    assert adapt(*predict).status == 0
    adapt("trust", "revoke", "--sha256", hashlib.sha256(adapter.read_bytes()).hexdigest(), "--reason", "backdoor")
    adapt(*predict).failed(1, "was revoked on this machine (backdoor)")
    (tmp_path / "home" / "trust.json").write_text("{")
    adapt(*predict).failed(1, "trust.json")


def test_an_older_version_does_not_come_back_after_a_removal(adapt: Any, installed: Path, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "registry", tmp_path / "old")
    again = ["publish", "m.safetensors", "--publisher", "acme", "--test-set", "towns", "--licence", "MIT"]
    again += ["--language", "en", "--description", "Places.", "--sign", "acme", "--version", "2"]
    assert adapt(*again).status == 0
    assert adapt("update").status == 0
    assert adapt("remove", "places").status == 0
    adapt("install", "places", "--source", "old").failed(1, "version 2 was installed here", "--allow-downgrade")
    assert adapt("install", "places", "--source", "old", "--allow-downgrade").status == 0
    assert adapt("remove", "places").status == 0
    assert adapt("install", "places").status == 0


def test_only_signed_or_locked_adapters_are_used_where_that_is_required(
    adapt: Any, installed: Path, adapter: Path, backbone: Any, model_folder: Path, tmp_path: Path
) -> None:
    predict = ["ada", "--backbone", model_folder]
    shutil.copy(installed, tmp_path / "copy.safetensors")
    adapt("install", "--lock", "a.lock")
    for required in (["--require-signed"], ["--locked", "a.lock"]):
        assert adapt("predict", "copy.safetensors", *predict, *required).status == 0
        adapt("predict", adapter, *predict, *required).failed(1, "no")
        checked = ["serve", "--check", "--backbone", model_folder, "--port", "0", *required]
        assert adapt(*checked, "--adapters", installed.parent).status == 0
        adapt(*checked, "--adapters", adapter.parent).failed(2, "cannot be served")
    dock = Dock(backbone)
    for requirements in (Requirements(signed=True), Requirements(lock=tmp_path / "a.lock")):
        assert dock.load(tmp_path / "copy.safetensors", "copy", replace=True, trust=requirements) == "copy"
        with pytest.raises(TrustError):
            dock.load(adapter, trust=requirements)
    dock.close()
    distrust("acme")
    adapt("predict", "places", *predict, "--require-signed").failed(1, "signed adapters are required here")
    (tmp_path / "a.lock").write_text("{")
    adapt("predict", "places", *predict, "--locked", "a.lock").failed(1, "a.lock")
    adapt("predict", "ada", "--url", "http://127.0.0.1:9", "--locked", "a.lock").failed(
        2, "--locked cannot be combined with --url"
    )


def test_a_policy_of_signed_adapters_holds_for_files_that_were_never_installed(
    adapt: Any, installed: Path, adapter: Path, model_folder: Path
) -> None:
    (installed.parents[2] / "policy.toml").write_text("signed_only = true\n")
    adapt("predict", adapter, "ada", "--backbone", model_folder).failed(1, "the policy allows only signed adapters")
    assert adapt("predict", "places", "ada", "--backbone", model_folder).status == 0
    about = ["--publisher", "acme", "--test-set", "t", "--licence", "MIT", "--language", "en", "--description", "P."]
    assert adapt("publish", "m.safetensors", *about, "--registry", "other", "--sign", "acme").status == 0
