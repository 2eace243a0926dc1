"""The adapters that the package carries are used by name at once, under the rules for installed ones."""

from pathlib import Path

import pytest
from publishing import Publish

from adaptdock.errors import TrustError, UnknownNameError
from adaptdock.hub.artefact import directories
from adaptdock.hub.registry import store
from adaptdock.hub.registry.admission import Requirements, read_adapter
from adaptdock.hub.registry.included import included, verify_included
from adaptdock.hub.registry.installed import find, installed, locate
from adaptdock.hub.registry.publishing import publish
from adaptdock.hub.registry.sources import Sources
from adaptdock.hub.registry.trust import policy_file
from adaptdock.hub.registry.verified import open_source, own_source
from adaptdock.hub.registry.withdrawal import yank


@pytest.fixture
def package(published: Publish, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the test's registry that of the package, with places@1; return its file."""
    monkeypatch.setattr("adaptdock.plugins.__file__", str(registry / "plugins" / "__init__.py"))
    assert Path(own_source()) == registry / "registry.json"
    return published().file


def test_an_included_adapter_is_used_by_name_and_nothing_is_installed(package: Path) -> None:
    assert (find("places").path, find("places").source) == (package, "adaptdock 1")
    assert read_adapter("places").card.name == "places"
    assert not directories.home().exists()


def test_only_the_newest_version_is_used_and_never_a_withdrawn_one(
    package: Path, registry: Path, published: Publish
) -> None:
    newer = published(version="2").file
    assert locate("places") == newer
    yank(registry, "places", "2", "trained on the test data")
    assert locate("places") == package
    yank(registry, "places", "1", "trained on the test data")
    assert included() == []


def test_an_installed_adapter_of_the_name_comes_first(package: Path, registry: Path) -> None:
    record = store.install(Sources([open_source(str(registry))]), "places")
    assert [adapter.path for adapter in installed()] == [record.path]


def test_where_other_sources_are_the_usual_ones_it_has_to_be_installed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTDOCK_SOURCES", str(tmp_path / "of-the-company"))
    with pytest.raises(UnknownNameError, match="unknown adapter 'places'"):
        locate("places")
    monkeypatch.setenv("ADAPTDOCK_SOURCES", f"{tmp_path / 'of-the-company'},{own_source()}")
    assert locate("places") == package


def test_where_a_root_of_the_index_is_trusted_it_has_to_be_installed(
    package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "root.json"
    root.write_text("{}")
    monkeypatch.setattr("adaptdock.hub.registry.verified._root_file", lambda source: root)
    assert included() == []


def test_a_changed_file_is_refused(package: Path) -> None:
    blob = bytearray(package.read_bytes())
    blob[-1] ^= 1
    package.write_bytes(blob)
    with pytest.raises(TrustError, match=r"was changed since it was installed.*Install the Python package adaptdock"):
        read_adapter("places")


def test_the_policy_and_the_revocations_of_this_machine_hold_for_it(
    package: Path, registry: Path, published: Publish
) -> None:
    policy_file().parent.mkdir(parents=True)
    policy_file().write_text('licences = ["MIT"]\n')
    with pytest.raises(TrustError, match="the policy allows the licences MIT"):
        read_adapter("places")
    policy_file().write_text("signed_only = true\n")
    with pytest.raises(TrustError, match="the policy allows only signed adapters"):
        read_adapter("places")
    read_adapter("places", Requirements(publishing=True))
    policy_file().unlink()
    with pytest.raises(TrustError, match="signed adapters are required here"):
        read_adapter("places", Requirements(signed=True))
    read_adapter("places")
    yank(registry, "places", "1", "trained on the test data")
    with pytest.raises(TrustError, match=r"places@1 is refused: its file was revoked \(trained on the test data\)"):
        read_adapter(package)


def test_a_package_without_an_index_has_none(
    published: Publish, registry: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (registry / "registry.json").unlink()
    assert included() == installed() == []
    publish(package, tmp_path / "another", "acme", "towns")


def test_the_fault_of_a_changed_or_withdrawn_file_is_told(package: Path, registry: Path, published: Publish) -> None:
    assert verify_included("places") is None
    published(version="2")
    policy_file().parent.mkdir(parents=True)
    policy_file().write_text('licences = ["MIT"]\n')
    assert "the policy allows the licences MIT" in str(verify_included("places"))
    policy_file().unlink()
    newest = locate("places")
    newest.write_bytes(newest.read_bytes()[:-1])
    assert "its file was changed" in str(verify_included("places"))
