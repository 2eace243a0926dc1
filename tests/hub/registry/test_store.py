"""The red-team table: each way to slip in another file than was meant, and its refusal; and what does work."""

import base64
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from publishing import Publish

from adaptdock.errors import FileError, SourceError, TrustError, UnknownNameError, UsageError
from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.hub.registry import store, trust
from adaptdock.hub.registry.index import Entry, Revocation
from adaptdock.hub.registry.publishing import build_wheel
from adaptdock.hub.registry.sources import Address, Sources, fetched
from adaptdock.hub.registry.store import Rules, install, install_locked, installed, remove, verify, write_lock
from adaptdock.hub.registry.trust import Policy, new_key, revoke, sign
from adaptdock.hub.registry.verified import open_source, usual

Change = Callable[..., None]


def of(*folders: object) -> Sources:
    return Sources([open_source(str(folder)) for folder in folders])


def entry_of(registry: Path) -> dict[str, Any]:
    return json.loads((registry / "registry.json").read_text())["adapters"][0]  # type: ignore[no-any-return]


@pytest.fixture
def change(registry: Path) -> Change:
    """Change fields of the only entry of the registry, as somebody would who owns its disk."""

    def run(**fields: Any) -> None:
        index = json.loads((registry / "registry.json").read_text())
        index["adapters"][0].update(fields)
        (registry / "registry.json").write_text(json.dumps(index))

    return run


def test_what_was_published_is_installed_to_the_byte(published: Publish, registry: Path) -> None:
    publication = published()
    record = install(of(registry), "places")
    assert record.path.read_bytes() == publication.file.read_bytes()
    assert installed() == [record]
    assert verify(record) is None
    assert install(of(registry), "places") == record
    remove("places")
    assert not installed()
    assert not record.path.exists()


def test_an_unknown_name_is_told_with_the_nearest(published: Publish, registry: Path) -> None:
    published()
    with pytest.raises(UnknownNameError, match="did you mean places"):
        install(of(registry), "plaices")
    with pytest.raises(UnknownNameError, match="did you mean places@1"):
        install(of(registry), "places", "7")


def test_what_the_project_publishes_can_be_installed() -> None:
    sources = of(*usual())
    ((_, index),) = sources.indices()
    assert index.adapters
    for entry in index.adapters:
        assert install(sources, entry.name, entry.version).path.stat().st_size == entry.size


# ------------------------------------------------------------------------------------ the red team


def test_a_flipped_byte_is_refused(published: Publish, registry: Path) -> None:
    blob = bytearray(published().file.read_bytes())
    blob[-1] ^= 1
    (registry / "published" / "places-1.safetensors").write_bytes(blob)
    with pytest.raises(SourceError, match=r"its entry says .* it is another file than was published"):
        install(of(registry), "places")
    assert not installed()


@pytest.mark.parametrize("more", [b"", b"tail"])
def test_a_file_of_another_size_is_refused(published: Publish, registry: Path, more: bytes) -> None:
    file = published().file
    file.write_bytes(file.read_bytes() + more if more else file.read_bytes()[:-9])
    with pytest.raises(SourceError, match=r"bytes of its entry"):
        install(of(registry), "places")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "pos"),
        ("methods", ["bottleneck"]),
        ("version", "9"),
        ("backbone", {"id": "minilm", "fingerprint": "blocks1:of-another-model"}),
        ("licence", "MIT"),
    ],
)
def test_an_entry_that_says_something_else_than_the_file_is_refused(
    published: Publish, registry: Path, change: Change, field: str, value: Any
) -> None:
    published()
    change(**{field: value})
    with pytest.raises(TrustError, match="is refused: its entry has the"):
        install(of(registry), "places")
    assert not installed()


@pytest.mark.parametrize(
    "file",
    ["../secret.safetensors", "/etc/passwd", "a/../../b", "file:///etc/passwd", "http://host/a", "..\\b", "C:a", ""],
)
def test_a_file_field_that_leads_elsewhere_is_refused(
    published: Publish, registry: Path, change: Change, file: str
) -> None:
    published()
    change(file=file)
    with pytest.raises(FileError, match=r"adapters.0.file: .*(leads out|neither a path)"):
        install(of(registry), "places")


def test_a_link_out_of_the_folder_is_refused(published: Publish, registry: Path, tmp_path: Path) -> None:
    file = published().file
    file.replace(tmp_path / "outside.safetensors")
    file.symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(SourceError, match="leads out of the folder"):
        install(of(registry), "places")


@pytest.mark.parametrize("name", ["../../etc", "a/b", "Places", ".hidden", "рlaces", "a" * 101])
def test_a_name_that_is_no_name_is_refused(published: Publish, registry: Path, change: Change, name: str) -> None:
    published()
    change(name=name)
    with pytest.raises(FileError, match=r"adapters.0.name"):
        install(of(registry), "places")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"version": 1, "version": 1}', "'version' appears twice"),
        ('{"version": 1, "adapters": [], "extra": 1}', "extra"),
        ('{"version": 2}', "version"),
        ('{"version": NaN}', "NaN is not a number"),
        ("[" * 100_000, "not JSON"),
        ("", "not JSON"),
    ],
)
def test_an_index_that_could_be_read_in_two_ways_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "registry.json").write_text(text)
    with pytest.raises(FileError, match=reason):
        of(tmp_path).find("places")


def test_a_pickle_in_disguise_is_refused(published: Publish, registry: Path, change: Change) -> None:
    import hashlib

    blob = b"\x80\x04cos\nsystem\n(S'true'\ntR."
    published().file.write_bytes(blob)
    change(sha256=hashlib.sha256(blob).hexdigest(), size=len(blob))
    with pytest.raises(FileError, match="this is a pickle"):
        install(of(registry), "places")
    assert not installed()


def test_an_older_version_replaces_a_newer_one_only_when_asked_for(published: Publish, registry: Path) -> None:
    published(version="1.0")
    published(version="1.10")
    assert install(of(registry), "places").entry.version == "1.10"
    with pytest.raises(TrustError, match=r"version 1.10 is installed, which is newer.*--allow-downgrade"):
        install(of(registry), "places", "1.0")
    assert install(of(registry), "places", "1.0", Rules(allow_downgrade=True)).entry.version == "1.0"


def test_the_same_version_with_another_content_is_refused(
    published: Publish, registry: Path, trained: Path, tmp_path: Path
) -> None:
    published()
    install(of(registry), "places")
    (registry / "registry.json").unlink()
    adapter = read_file(trained)
    write_file(trained, AdapterFile(adapter.card, {name: 2 * t for name, t in adapter.tensors.items()}))
    published()
    with pytest.raises(TrustError, match="a version never changes"):
        install(of(registry), "places")


def test_a_name_that_looks_like_an_installed_one_is_refused(
    published: Publish, registry: Path, trained: Path, tmp_path: Path
) -> None:
    from adaptdock.hub.registry.publishing import publish

    published()
    install(of(registry), "places")
    fields = {"licence": "CC0-1.0", "languages": ["en"], "description": "x"}
    publish(trained, tmp_path / "evil", "mallory", "towns", name="p1aces", **fields)
    with pytest.raises(TrustError, match=r"looks like 'places'.*--allow-lookalike"):
        install(of(tmp_path / "evil"), "p1aces")
    assert install(of(tmp_path / "evil"), "p1aces", rules=Rules(allow_lookalike=True)).entry.publisher == "mallory"


def test_an_adapter_that_needs_code_names_it_before_anything_is_fetched(
    published: Publish, registry: Path, change: Change
) -> None:
    published()
    change(needs=["acme-methods"])
    with pytest.raises(UsageError, match=r"code that runs on this machine, of acme-methods.*pip install acme-methods"):
        install(of(registry), "places")


# --------------------------------------------------------------------------------------- signatures


def test_what_a_trusted_publisher_signed_is_installed(published: Publish, registry: Path) -> None:
    trust.trust("acme", new_key("mine"))
    published(key="mine")
    record = install(of(registry), "places", rules=Rules(Policy(signed_only=True)))
    assert record.stands == "signed by acme, who is trusted here"


def test_an_entry_changed_after_it_was_signed_is_refused(published: Publish, registry: Path, change: Change) -> None:
    new_key("mine")
    published(key="mine")
    change(description="Finds everything.")
    with pytest.raises(TrustError, match="signature does not fit"):
        install(of(registry), "places")


def test_a_signature_of_a_key_that_is_none_of_the_publisher_s_is_refused(published: Publish, registry: Path) -> None:
    trust.trust("acme", new_key("theirs"))
    new_key("mallory")
    published(key="mallory")
    with pytest.raises(TrustError, match="is signed with another key"):
        install(of(registry), "places")


def test_a_trusted_publisher_s_adapter_without_signature_is_refused(published: Publish, registry: Path) -> None:
    trust.trust("acme", new_key("theirs"))
    published()
    with pytest.raises(TrustError, match="but it is not signed"):
        install(of(registry), "places")


def test_an_unknown_publisher_is_refused_where_only_signed_ones_are_allowed(published: Publish, registry: Path) -> None:
    new_key("mine")
    published(key="mine")
    with pytest.raises(TrustError, match=r"'acme' is not trusted.*adapt trust add"):
        install(of(registry), "places", rules=Rules(Policy(signed_only=True)))
    assert install(of(registry), "places").stands == "signed, by a key that is not known here"


@pytest.mark.parametrize(("field", "values"), [("publishers", ["others"]), ("licences", ["MIT"])])
def test_what_the_policy_does_not_list_is_refused(
    published: Publish, registry: Path, field: str, values: list[str]
) -> None:
    published()
    with pytest.raises(TrustError, match=f"the policy allows the {field}"):
        install(of(registry), "places", rules=Rules(Policy(**{field: values})))


def test_a_revoked_key_is_refused_and_noticed_afterwards(published: Publish, registry: Path) -> None:
    key = new_key("mine")
    published(key="mine")
    record = install(of(registry), "places")
    revoke(Revocation(key=key, reason="the laptop was stolen"))
    assert "the laptop was stolen" in (verify(record) or "")
    remove("places")
    with pytest.raises(TrustError, match=r"the key that signed it was revoked \(the laptop was stolen\)"):
        install(of(registry), "places")


def test_a_file_that_its_own_index_has_revoked_is_refused(published: Publish, registry: Path) -> None:
    publication = published()
    index = json.loads((registry / "registry.json").read_text())
    index["revoked"] = [{"sha256": publication.entry.sha256, "reason": "wrong labels"}]
    (registry / "registry.json").write_text(json.dumps(index))
    with pytest.raises(TrustError, match="its file was revoked"):
        install(of(registry), "places")


def test_the_signature_is_one_that_another_library_verifies(published: Publish) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    new_key("mine")
    entry = sign(published().entry, "mine")
    content = entry.model_dump(mode="json", exclude_none=True)
    content.pop("signature")
    message = (
        b"adaptdock registry entry, version 1\0"
        + json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(entry.key.removeprefix("ed25519:")))
    key.verify(base64.b64decode(entry.signature), message)


def test_a_private_key_is_readable_by_its_owner_alone(home: Path) -> None:
    new_key("mine")
    assert (home / "keys" / "mine.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="already"):
        new_key("mine")
    with pytest.raises(UsageError, match="cannot be used for a key"):
        new_key("../mine")


@pytest.mark.parametrize("key", ["ed25519:", "ed25519:AAAA", "rsa:AAAA", "ed25519:not base64"])
def test_what_is_no_key_is_not_trusted(key: str) -> None:
    with pytest.raises(UsageError, match="is not a public key"):
        trust.trust("acme", key)


# ------------------------------------------------------------------------------------------- wheels


def test_a_fifo_is_no_index_and_no_wheel_and_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("registry.json", "a.whl"):
        os.mkfifo(tmp_path / name)
    for source in (tmp_path, tmp_path / "registry.json", f"wheels:{tmp_path}"):
        with pytest.raises(FileError, match="FIFO"):
            of(source).indices()


def test_a_wheel_that_also_carries_code_is_refused(published: Publish, tmp_path: Path) -> None:
    wheel = build_wheel(published(), "acme-places", tmp_path / "wheels")
    assert install(of(f"wheels:{tmp_path / 'wheels'}"), "places").entry.publisher == "acme"
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("acme_places/setup.py", "import os")
    with pytest.raises(TrustError, match=r"carries adapter files and code too \(acme_places/setup.py\)"):
        install(of(f"wheels:{tmp_path / 'wheels'}"), "places")


def test_a_wheel_whose_names_lead_out_is_refused(published: Publish, tmp_path: Path) -> None:
    wheel = build_wheel(published(), "acme-places", tmp_path / "wheels")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../evil.safetensors", b"")
    with pytest.raises(TrustError, match="leads out of the folder"):
        of(f"wheels:{wheel.parent}").indices()


# ------------------------------------------------------------------------------------------ network


@dataclass
class Answer:
    """What a server answers, as requests gives it."""

    status_code: int
    blob: bytes = b""
    location: str = ""

    reason = "because"

    @property
    def is_redirect(self) -> bool:
        return bool(self.location)

    @property
    def headers(self) -> dict[str, str]:
        return {"location": self.location}

    def iter_content(self, size: int) -> Iterator[bytes]:
        for start in range(0, len(self.blob), 1000):
            yield self.blob[start : start + 1000]

    def close(self) -> None:
        pass

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> dict[str, Answer | Exception]:
    """What is found at which address."""
    pages: dict[str, Answer | Exception] = {}

    def get(url: str, **options: Any) -> Answer:
        assert options["allow_redirects"] is False
        assert options["timeout"] > 0
        page = pages.get(url, Answer(404))
        if isinstance(page, Exception):
            raise page
        return page

    monkeypatch.setattr(requests, "get", get)
    return pages


URL = "https://adapters.example/registry.json"


def test_an_adapter_is_installed_from_beside_its_index(
    published: Publish, registry: Path, web: dict[str, Answer | Exception]
) -> None:
    publication = published()
    web[URL] = Answer(302, location="/v1/registry.json")
    web["https://adapters.example/v1/registry.json"] = Answer(200, (registry / "registry.json").read_bytes())
    web["https://adapters.example/published/places-1.safetensors"] = Answer(200, publication.file.read_bytes())
    assert install(of(URL), "places").path.read_bytes() == publication.file.read_bytes()


def test_a_redirect_to_plain_http_is_refused(web: dict[str, Answer | Exception]) -> None:
    web[URL] = Answer(302, location="http://adapters.example/registry.json")
    with pytest.raises(SourceError, match="leads away from https"):
        of(URL).find("places")


def test_redirects_without_end_are_refused(web: dict[str, Answer | Exception]) -> None:
    web[URL] = Answer(302, location=URL)
    with pytest.raises(SourceError, match="more than 5 redirects"):
        of(URL).find("places")


def test_more_bytes_than_were_announced_are_not_taken(
    published: Publish, registry: Path, web: dict[str, Answer | Exception]
) -> None:
    entry = published().entry
    web["https://adapters.example/published/places-1.safetensors"] = Answer(200, b"x" * 50 * entry.size)
    taken: list[int] = []
    source = Address(URL)
    real = source.content

    def counted(of_entry: Entry) -> Iterator[bytes]:
        for part in real(of_entry):
            taken.append(len(part))
            yield part

    source.content = counted  # type: ignore[method-assign]
    with pytest.raises(SourceError, match="more than"), fetched(source, entry):
        pass
    assert sum(taken) < entry.size + 2000


def test_without_a_network_the_index_that_was_read_last_is_used(
    published: Publish, registry: Path, web: dict[str, Answer | Exception]
) -> None:
    published()
    web[URL] = Answer(200, (registry / "registry.json").read_bytes())
    assert of(URL).find("places").entry.name == "places"
    web[URL] = requests.ConnectionError("no route")
    offline = of(URL)
    assert offline.find("places").entry.name == "places"
    assert "cached index is used" in offline.notes[0]
    unseen = URL.replace("adapters", "others")
    web[unseen] = requests.ConnectionError("no route")
    with pytest.raises(SourceError, match="cannot be reached"):
        of(unseen).find("places")


@pytest.mark.parametrize("name", ["http://adapters.example/registry.json", "ftp://host/x", "file:///etc"])
def test_a_source_that_is_not_https_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        open_source(name)


# ------------------------------------------------------------------------------- several, and locks


def test_the_first_source_that_has_an_adapter_gives_it_and_that_is_said(
    published: Publish, registry: Path, trained: Path, tmp_path: Path
) -> None:
    from adaptdock.hub.registry.publishing import publish

    published()
    fields = {"licence": "MIT", "languages": ["en"], "description": "x"}
    publish(trained, tmp_path / "second", "others", "towns", version="2", **fields)
    both = of(registry, tmp_path / "second")
    assert install(both, "places").entry.publisher == "acme"
    assert any("places@1 is taken from" in note and "second (2)" in note for note in both.notes)


def test_a_source_that_cannot_be_read_is_set_aside_and_named(
    published: Publish, registry: Path, tmp_path: Path
) -> None:
    published()
    both = of(tmp_path / "missing", registry)
    assert install(both, "places").entry.name == "places"
    assert "set aside" in both.notes[0]
    assert "missing" in both.notes[0]


def test_a_lock_file_installs_the_same_bytes_or_nothing(published: Publish, registry: Path, tmp_path: Path) -> None:
    publication = published()
    install(of(registry), "places")
    write_lock(tmp_path / "adapters.lock")
    remove("places")
    published(version="2")
    assert install_locked(tmp_path / "adapters.lock")[0].entry == publication.entry
    remove("places")
    (registry / "registry.json").unlink()
    published(description="another")
    with pytest.raises(TrustError, match=r"adapters.lock has the sha256"):
        install_locked(tmp_path / "adapters.lock")
    assert not installed()


def test_an_installed_file_that_was_changed_is_noticed(published: Publish, registry: Path) -> None:
    published()
    record = install(of(registry), "places")
    record.path.write_bytes(record.path.read_bytes()[:-1] + b"\0\1")
    assert "was changed" in (verify(record) or "")
    assert install(of(registry), "places").path.stat().st_size == record.entry.size
    assert verify(record) is None


def test_a_failure_while_installing_leaves_what_was_installed(
    published: Publish, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published()
    record = install(of(registry), "places")
    published(version="2")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.shutil, "copyfile", full)
    with pytest.raises(FileError, match="No space left"):
        install(of(registry), "places")
    assert installed() == [record]
    assert verify(record) is None
    assert [path.name for path in (directories.home() / "adapters").iterdir()] == ["places"]
