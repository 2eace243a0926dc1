"""The signed state of a registry: an old, changed or foreign state is refused, by python-tuf's own client too."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from publishing import Publish
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import FetcherInterface, Updater

from adaptdock.errors import FileError, SourceError, TrustError, UnknownNameError, UsageError
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry import signed_state
from adaptdock.hub.registry.index import Index
from adaptdock.hub.registry.signed_state import SignedState, is_signed, sign_state
from adaptdock.hub.registry.sources import Folder, Sources
from adaptdock.hub.registry.store import install
from adaptdock.hub.registry.trust import new_key
from adaptdock.hub.registry.verified import distrust_root, named, open_source, rooted, trust_root
from adaptdock.hub.registry.withdrawal import yank


@pytest.fixture
def signed(published: Publish, registry: Path) -> SignedState:
    """The state of a registry with one adapter, signed with the key ``online``; the root's key is ``vault``."""
    published()
    for name in ("vault", "online"):
        new_key(name)
    return sign_state(registry, ["online"], ["vault"])


@pytest.fixture
def old_copy(registry: Path, signed: SignedState, published: Publish, tmp_path: Path) -> Path:
    """A copy of the registry from before its version 2."""
    copy = tmp_path / "copy"
    shutil.copytree(registry, copy)
    published(version="2")
    sign_state(registry, ["online"])
    return copy


def names(source: object) -> list[str]:
    return [entry.label for entry in open_source(str(source)).index().adapters]


class Files(FetcherInterface):
    """Reads the files of a folder for python-tuf."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self.folder / url.removeprefix("https://registry/")
        if not path.exists():
            raise DownloadHTTPError(url, 404)
        return iter([path.read_bytes()])


def by_python_tuf(registry: Path, root: Path, folder: Path) -> bytes:
    """Return the index as python-tuf verifies it, without this project."""
    folder.mkdir(exist_ok=True)
    address = "https://registry/"
    updater = Updater(
        str(folder), f"{address}metadata/", str(folder), address, Files(registry), bootstrap=root.read_bytes()
    )
    target = updater.get_targetinfo("registry.json")
    assert target is not None
    return Path(updater.download_target(target)).read_bytes()


def test_a_signed_state_is_verified_by_python_tuf_and_installs(
    registry: Path, signed: SignedState, tmp_path: Path
) -> None:
    assert by_python_tuf(registry, signed.root, tmp_path / "tuf") == (registry / "registry.json").read_bytes()
    assert (signed.root.name, signed.root_version, signed.version) == ("1.root.json", 1, 1)
    assert timedelta(days=29) < signed.expires - datetime.now(UTC) <= timedelta(days=30)
    assert trust_root(str(registry), signed.root) == 1
    assert rooted() == [str((registry / "registry.json").resolve())]
    assert names(registry) == ["places@1"]
    assert install(Sources([open_source(str(registry))]), "places").entry.label == "places@1"
    distrust_root(str(registry))
    assert isinstance(open_source(str(registry)), Folder)
    with pytest.raises(UnknownNameError, match="source with a trusted root"):
        distrust_root(str(registry))


def test_an_old_copy_is_refused_by_a_machine_that_has_seen_a_newer_state(
    registry: Path, old_copy: Path, tmp_path: Path
) -> None:
    trust_root(str(registry), registry / "metadata" / "1.root.json")
    assert names(registry) == ["places@1", "places@2"]
    shutil.rmtree(registry)
    shutil.copytree(old_copy, registry)
    with pytest.raises(TrustError, match=r"signed state is not valid.*version"):
        names(registry)


def test_an_old_copy_is_refused_by_a_fresh_machine_once_it_has_expired(
    registry: Path, signed: SignedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_state(registry, ["online"], days=1e-9)
    trust_root(str(registry), signed.root)
    with pytest.raises(TrustError, match=r"has expired.*adapt refresh"):
        names(registry)
    sign_state(registry, ["online"])
    assert names(registry) == ["places@1"]


def _index_changed(registry: Path) -> None:
    index = json.loads((registry / "registry.json").read_text())
    index["adapters"] = []
    (registry / "registry.json").write_text(json.dumps(index))


def _index_longer(registry: Path) -> None:
    with (registry / "registry.json").open("a") as stream:
        stream.write(" " * 999)


def _field_changed(role: str, **fields: object) -> Callable[[Path], None]:
    def change(registry: Path) -> None:
        path = registry / "metadata" / f"{role}.json"
        content = json.loads(path.read_text())
        content["signed"].update(fields)
        path.write_text(json.dumps(content))

    return change


def _signed_by_another(registry: Path) -> None:
    new_key("thief")
    elsewhere = registry.parent / "elsewhere"
    shutil.copytree(registry, elsewhere, ignore=shutil.ignore_patterns("metadata"))
    sign_state(elsewhere, ["thief"], ["thief"])
    for role in ("targets", "snapshot", "timestamp"):
        shutil.copy(elsewhere / "metadata" / f"{role}.json", registry / "metadata")


def _foreign_root(registry: Path) -> None:
    _signed_by_another(registry)
    root = Metadata[Root].from_file(str(registry.parent / "elsewhere" / "metadata" / "1.root.json"))
    root.signed.version = 2
    root.sign(signed_state.signer("thief"))
    root.to_file(str(registry / "metadata" / "2.root.json"))


ATTACKS: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "an entry taken out": (_index_changed, TrustError, "(length|hash)"),
    "an entry added": (_index_longer, TrustError, "length"),
    "a later day of expiry": (_field_changed("timestamp", expires="2099-01-01T00:00:00Z"), TrustError, "signed by 0/1"),
    "another version": (_field_changed("snapshot", version=7), TrustError, "not valid"),
    "another key": (_signed_by_another, TrustError, "signed by 0/1"),
    "a root of another key": (_foreign_root, TrustError, "signed by 0/1"),
    "no timestamp": (
        lambda registry: (registry / "metadata" / "timestamp.json").unlink(),
        SourceError,
        "can't be read",
    ),
    "no metadata": (lambda registry: shutil.rmtree(registry / "metadata"), SourceError, "can't be read"),
    "not JSON": (lambda registry: (registry / "metadata" / "targets.json").write_text("{"), TrustError, "not valid"),
    "an index that is gone": (lambda registry: (registry / "registry.json").unlink(), SourceError, "can't be read"),
    "endless metadata": (
        lambda registry: (registry / "metadata" / "timestamp.json").write_bytes(b" " * 10**6),
        TrustError,
        "exceeding",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_changed_registry_is_refused(registry: Path, signed: SignedState, attack: str) -> None:
    change, kind, reason = ATTACKS[attack]
    trust_root(str(registry), signed.root)
    change(registry)
    with pytest.raises(kind, match=reason) as raised:
        names(registry)
    assert str(registry) in str(raised.value)


def test_another_source_does_not_take_the_place_of_a_refused_one(registry: Path, old_copy: Path) -> None:
    trust_root(str(registry), registry / "metadata" / "1.root.json")
    _index_changed(registry)
    with pytest.raises(TrustError, match="is refused"):
        install(Sources([open_source(str(registry)), open_source(str(old_copy))]), "places")


def test_keys_are_changed_by_a_new_root_that_the_old_one_has_signed(
    registry: Path, signed: SignedState, tmp_path: Path
) -> None:
    trust_root(str(registry), signed.root)
    for name in ("vault2", "vault3", "online2"):
        new_key(name)
    renewed = sign_state(registry, ["online2"], ["vault2", "vault3"], threshold=2)
    assert (renewed.root_version, renewed.version) == (2, 2)
    assert names(registry) == ["places@1"], "the machine that trusts root 1 follows to root 2"
    assert by_python_tuf(registry, signed.root, tmp_path / "tuf")
    with pytest.raises(UsageError, match="root 2 does not name the key online: give --root-key"):
        sign_state(registry, ["online"])
    assert names(registry) == ["places@1"]


def test_a_root_without_enough_signatures_is_not_written(registry: Path, signed: SignedState) -> None:
    for name in ("vault2", "vault3"):
        new_key(name)
    sign_state(registry, ["online"], ["vault2", "vault3"], threshold=2)
    before = sorted((registry / "metadata").iterdir())
    signed_state_keys = signed_state.key_names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signed_state, "key_names", lambda: [name for name in signed_state_keys if name != "vault3"])
        with pytest.raises(UsageError, match=r"needs 2 signatures by keys of root 2, and this machine has .* for 1"):
            sign_state(registry, ["online"], ["vault"])
    assert sorted((registry / "metadata").iterdir()) == before


@pytest.mark.parametrize(
    ("online", "roots", "threshold", "message"),
    [
        (["online"], [], 1, "no root yet: name its keys"),
        (["online"], ["vault"], 2, "a root with 1 keys can't need 2 signatures"),
        (["nobody"], ["vault"], 1, "unknown key 'nobody'"),
    ],
)
def test_a_state_that_cannot_be_signed_is_refused(
    published: Publish, registry: Path, online: list[str], roots: list[str], threshold: int, message: str
) -> None:
    published()
    for name in ("vault", "online"):
        new_key(name)
    with pytest.raises(UsageError, match=message):
        sign_state(registry, online, roots, threshold)
    assert not is_signed(registry)


def test_only_a_root_signed_by_its_own_keys_is_trusted(registry: Path, signed: SignedState, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="role targets, not a root"):
        trust_root(str(registry), registry / "metadata" / "targets.json")
    with pytest.raises(FileError, match="not a root of The Update Framework"):
        trust_root(str(registry), registry / "registry.json")
    with pytest.raises(FileError, match=r"no.json: it cannot be read"):
        trust_root(str(registry), tmp_path / "no.json")
    _field_changed("1.root", expires="2099-01-01T00:00:00Z")(registry)
    with pytest.raises(FileError, match="signed by its own keys"):
        trust_root(str(registry), signed.root)
    assert rooted() == []


def test_a_withdrawal_counts_once_the_state_is_signed_again(registry: Path, signed: SignedState) -> None:
    trust_root(str(registry), signed.root)
    yank(registry, "places", "1", "wrong labels")
    with pytest.raises(TrustError, match=r"(length|hash)"):
        names(registry)
    sign_state(registry, ["online"])
    assert open_source(str(registry)).index().revoked == read(registry / "registry.json", Index).revoked != []


def test_a_source_without_a_signed_state_can_have_no_root_file(registry: Path, signed: SignedState) -> None:
    wheels = f"wheels:{registry}"
    trust_root(wheels, signed.root)
    with pytest.raises(SourceError, match=r"its signed state can't be read: .*it has no "):
        names(wheels)
    assert named(wheels).index().adapters == []
