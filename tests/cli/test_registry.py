"""Publishing and installing from the command line: one person's adapter on another's machine."""

import json
from pathlib import Path

import pytest

from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file

CARD = [
    "--publisher",
    "acme",
    "--test-set",
    "towns",
    "--licence",
    "CC0-1.0",
    "--language",
    "en",
    "--description",
    "Places.",
]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTDOCK_SOURCES", str(tmp_path / "registry"))


@pytest.fixture
def measured(adapter: Path, tmp_path: Path) -> Path:
    """The adapter ``places``, with metrics on test data."""
    given = read_file(adapter)
    write_file(
        tmp_path / "m.safetensors",
        AdapterFile(given.card.model_copy(update={"metrics": {"test": {"f1": 50.0}}}), given.tensors),
    )
    return tmp_path / "m.safetensors"


def test_what_one_publishes_another_finds_installs_updates_and_removes(adapt, measured, tmp_path):
    ran = adapt("publish", measured, "--registry", "registry", *CARD)
    assert ran.status == 0, ran
    assert "places@1 in registry" in ran.out
    assert "it is not signed" in ran.err
    assert [row["name"] for row in json.loads(adapt("search", "places", "--task", "ner", "--json").out)] == ["places"]
    assert json.loads(adapt("search", "--task", "pos", "--json").out) == []
    ran = adapt("install", "places", "--lock", "adapters.lock")
    assert ran.status == 0, ran
    assert "(not signed)" in ran.out
    assert adapt("verify").out.splitlines()[1].split() == ["places@1", "as", "installed"]
    adapt("publish", measured, "--registry", "registry", "--version", "2", *CARD)
    assert "places@1 is now 2" in adapt("update").err
    assert adapt("update").out == ""
    assert adapt("install", "--locked", "adapters.lock").status == 0
    assert adapt("remove", "places").status == 0
    adapt("remove", "places").failed(2, "unknown adapter 'places'")


def test_a_signed_adapter_passes_a_policy_that_wants_one(adapt, measured, tmp_path):
    key = adapt("key", "new", "mine").out.strip()
    assert adapt("key", "show").out.split() == ["mine", key]
    assert adapt("publish", measured, "--registry", "registry", "--sign", "mine", *CARD).status == 0
    Path("strict.toml").write_text("signed_only = true\n")
    adapt("install", "places", "--policy", "strict.toml").failed(1, "adapt trust add")
    added = adapt("trust", "add", "acme", key)
    assert (added.status, added.out) == (0, "")
    assert f"acme is trusted with {key}" in added.err
    assert "who is trusted here" in adapt("install", "places", "--policy", "strict.toml").out
    assert f"{key} is revoked: lost" in adapt("trust", "revoke", "--key", key, "--reason", "lost").err
    assert "revoked: lost" in adapt("trust", "list").out
    assert adapt("verify").status == 1
    assert "acme is not trusted any more" in adapt("trust", "remove", "acme").err
    adapt("trust", "remove", "acme").failed(2, "unknown publisher")


def test_a_damaged_file_is_told_by_verify(adapt, measured, tmp_path):
    adapt("publish", measured, "--registry", "registry", *CARD)
    (path,) = (row["path"] for row in json.loads(adapt("install", "places", "--json").out))
    Path(path).write_bytes(b"no adapter")
    ran = adapt("verify", "places")
    assert ran.status == 1
    assert "was changed" in ran.out


def test_a_wheel_is_built_beside_the_registry(adapt, measured, tmp_path):
    found = json.loads(
        adapt("publish", measured, "--registry", "registry", "--wheel", "acme-places", "--json", *CARD).out
    )
    assert found["wheel"] == "registry/wheels/acme_places-1-py3-none-any.whl"
    assert adapt("install", "places", "--source", "wheels:registry/wheels").status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["install"], ["give a NAME, or --locked FILE"]),
        (["install", "@1"], ["write NAME or NAME@VERSION"]),
        (["install", "x", "--source", "http://host"], ["begins with https://"]),
        (["trust", "add", "acme", "nonsense"], ["is not a public key"]),
        (["trust", "revoke", "--reason", "x"], ["give --key or --sha256"]),
        (["publish", "missing.safetensors", "--publisher", "a", "--test-set", "b", "--sign", "x"], ["no such file"]),
    ],
)
def test_bad_input_gets_one_paragraph(adapt, arguments, words):
    ran = adapt(*arguments)
    ran.failed(ran.status, *words)
    assert ran.status in (1, 2)


def test_a_policy_with_an_unknown_field_is_refused(adapt, measured):
    adapt("publish", measured, "--registry", "registry", *CARD)
    Path("policy.toml").write_text("singed_only = true\n")
    adapt("install", "places", "--policy", "policy.toml").failed(1, "policy.toml", "singed_only")


def test_a_published_adapter_is_installed_on_first_use_when_a_person_says_so(adapt, measured, model_folder):
    adapt("publish", measured, "--registry", "registry", *CARD)
    adapt("predict", "places", "ada").failed(2, "not installed", "places@1 of acme", "CC0-1.0", "--yes")
    assert adapt("list", "--json").out.strip() == "[]"
    ran = adapt("predict", "places", "ada met bob", "--yes", "--backbone", model_folder)
    assert ran.status == 0, ran
    assert "places@1 is installed" in ran.err
    assert adapt("predict", "places@1", "ada").status == 2
    assert adapt("predict", "places", "ada met bob", "--backbone", model_folder).out == ran.out
    adapt("predict", "plaices", "ada").failed(2, "unknown adapter 'plaices'")


def test_info_shows_licence_signature_and_what_an_installation_would_do(adapt, measured, tmp_path):
    key = adapt("key", "new", "acme").out.strip()
    assert adapt("publish", measured, "--registry", "registry", *CARD, "--sign", "acme").status == 0
    ran = adapt("info", "places")
    assert ran.status == 0
    for words in ("CC0-1.0", "acme", "a key that is not known here", key, "would install it", "50.0"):
        assert words in ran.out
    Path("strict.toml").write_text("signed_only = true\n")
    assert "refused: places@1 is refused: the policy allows" in adapt("info", "places", "--policy", "strict.toml").out
    adapt("trust", "add", "acme", key)
    adapt("install", "places")
    found = json.loads(adapt("info", "places@1", "--json").out)
    assert found["signature"] == "signed by acme, who is trusted here"
    assert (found["installed"], found["refusal"], found["versions"]) == ("1", "", ["1"])
    assert found["entry"]["licence"] == "CC0-1.0"
    adapt("info", "plaecs").failed(2, "did you mean places?")
    assert not list((tmp_path / "home").rglob("*.partial"))


def test_a_publisher_withdraws_a_version_or_all_of_a_key(adapt, measured, tmp_path):
    key = adapt("key", "new", "acme").out.strip()
    for version in ("1", "2"):
        publish = ["publish", measured, "--registry", "registry", *CARD, "--sign", "acme", "--version", version]
        assert adapt(*publish).status == 0
    assert adapt("yank", "places@2", "--reason", "wrong labels").status == 0
    adapt("install", "places@2").failed(1, "places@2 is refused", "wrong labels")
    assert "wrong labels" in adapt("info", "places@2").out
    assert [row["version"] for row in json.loads(adapt("search", "places", "--json").out)] == ["1"]
    assert "places@1 from" in adapt("install", "places").out
    adapt("yank", "places", "--reason", "x").failed(2, "write NAME@VERSION")
    adapt("yank", "places@3", "--reason", "x").failed(2, "did you mean places@")
    adapt("remove", "places")
    assert "places@1, places@2" in adapt("revoke", key, "--reason", "stolen").err
    adapt("install", "places@1").failed(1, "the key that signed it was revoked (stolen)")
    assert json.loads(adapt("search", "places", "--json").out) == []
    adapt("revoke", "ed25519:none", "--reason", "x").failed(2, "unknown key")
    adapt("yank", "places@1", "--registry", "none", "--reason", "x").failed(1, "registry.json")
    index = (tmp_path / "registry" / "registry.json").read_bytes()
    adapt("revoke", key, "--reason", "stolen")
    assert (tmp_path / "registry" / "registry.json").read_bytes() == index


def test_a_registry_signs_its_state_and_people_trust_its_root(adapt, measured, tmp_path):
    for name in ("vault", "online"):
        adapt("key", "new", name)
    assert "signed state" not in adapt("publish", measured, *CARD).err
    adapt("refresh", "--sign", "online").failed(2, "no root yet", "--root-key NAME")
    ran = adapt("refresh", "--sign", "online", "--root-key", "vault", "--days", 7)
    assert "state 1 of registry, valid until" in ran.out
    assert "registry/metadata/1.root.json (version 1" in ran.out
    root = tmp_path / "registry" / "metadata" / "1.root.json"
    assert "root 1 of registry is trusted" in adapt("trust", "root", "registry", root).err
    assert adapt("install", "places").status == 0
    assert "does not cover this change yet: adapt refresh" in adapt("yank", "places@1", "--reason", "wrong").err
    adapt("update", "places").failed(1, "registry is refused", "not valid")
    adapt("refresh", "--sign", "online")
    assert "wrong" in adapt("info", "places").out
    assert "trusted root" in adapt("trust", "list").out
    assert json.loads(adapt("trust", "list", "--json").out)["roots"] == [str(tmp_path / "registry" / "registry.json")]
    adapt("trust", "root", "registry").failed(2, "give the FILE of a root, or --remove")
    assert adapt("trust", "root", "registry", "--remove").err == "registry is used without its signed state\n"
    adapt("trust", "root", "registry", "--remove").failed(2, "unknown source with a trusted root")


def test_an_older_index_is_refused_once_a_newer_was_seen(adapt, measured, tmp_path):
    adapt("key", "new", "acme")
    for name in ("places", "towns"):
        assert adapt("publish", measured, *CARD, "--sign", "acme", "--name", name).status == 0
    index = tmp_path / "registry" / "registry.json"
    older = index.read_bytes()
    assert adapt("yank", "towns@1", "--reason", "wrong labels").status == 0
    assert adapt("install", "places").status == 0
    assert adapt("remove", "places").status == 0
    index.write_bytes(older)  # a replay, which hides that towns was withdrawn
    for name in ("towns", "places"):
        adapt("install", name).failed(1, "its index lacks the revocation of", "adapt trust forget")
    entries = json.loads(older)
    index.write_text(json.dumps({**entries, "adapters": entries["adapters"][:1]}))
    adapt("install", "places").failed(1, "its index lacks the signed entry towns@1")
    assert not (tmp_path / "home" / "adapters" / "towns").exists()
    assert adapt("trust", "forget", "registry").status == 0
    assert adapt("install", "places").status == 0
    adapt("trust", "forget", "elsewhere").failed(2, "unknown source")


@pytest.fixture
def package(adapt, measured, tmp_path, monkeypatch):
    """Make a registry with ``places`` the index of the package; return the published file."""
    assert adapt("publish", measured, "--registry", "package", *CARD).status == 0
    monkeypatch.setattr("adaptdock.plugins.__file__", str(tmp_path / "package" / "plugins" / "__init__.py"))
    monkeypatch.delenv("ADAPTDOCK_SOURCES")
    return tmp_path / "package" / "published" / "places-1.safetensors"


def test_verify_checks_what_the_package_includes(adapt, package):
    for arguments in ((), ("places",)):
        assert adapt("verify", *arguments).out.splitlines()[1].split() == [
            "places@1",
            "as",
            "included",
            "in",
            "the",
            "package",
        ]
    package.write_bytes(package.read_bytes()[:-1])
    ran = adapt("verify", "--json")
    assert ran.status == 1
    (document,) = json.loads(ran.out)
    assert "its file was changed" in document["problem"]


def test_an_included_adapter_is_not_removed_and_the_way_to_refuse_it_works(adapt, package):
    ran = adapt("remove", "places")
    ran.failed(2, "comes with the package adaptdock")
    sha256 = ran.err.partition("--sha256 ")[2].split()[0]
    assert adapt("trust", "revoke", "--sha256", sha256, "--reason", "unwanted").status == 0
    adapt("predict", "places", "ada").failed(1, "was revoked (unwanted)")
    assert "was revoked (unwanted)" in adapt("verify", "places").out
    assert package.exists()


def test_an_adapter_of_a_python_package_is_removed_by_pip(adapt, measured, tmp_path, distribution):
    distribution("acme-towns", "[adaptdock.files]\ntowns = acme_towns\n", "")
    (tmp_path / "acme_towns.py").unlink()
    (tmp_path / "acme_towns").mkdir()
    (tmp_path / "acme_towns" / "towns.safetensors").write_bytes(measured.read_bytes())
    adapt("remove", "towns").failed(2, "comes with the package acme-towns 1.0: pip uninstall acme-towns")
    adapt("verify", "towns").failed(2, "comes with the package acme-towns 1.0", "no record to compare with")


def test_publishing_twice_gives_the_same_bytes(adapt, measured, tmp_path):
    adapt("key", "new", "mine")
    for registry in ("first", "second", "first"):
        ran = adapt("publish", measured, "--registry", registry, *CARD, "--sign", "mine", "--wheel", "acme-places")
        assert ran.status == 0, ran
        files = [file.relative_to(registry) for file in sorted(Path(registry).rglob("*")) if file.is_file()]
        assert len(files) >= 5
        assert [(Path("first") / file).read_bytes() for file in files] == [
            (Path(registry) / file).read_bytes() for file in files
        ]
