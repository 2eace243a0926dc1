"""Adapters by name: found by the metadata of what is installed, without any of it being run."""

import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import build_adapter
from publishing import Publish

from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import FileError, PluginError, UnknownNameError
from adaptdock.hub.artefact.file import read_card, write_file
from adaptdock.hub.registry import store
from adaptdock.hub.registry.installed import find, installed, locate
from adaptdock.hub.registry.publishing import build_wheel
from adaptdock.hub.registry.sources import Sources
from adaptdock.hub.registry.verified import open_source
from adaptdock.plugins import registry as plugins
from adaptdock.plugins.contracts import Backbone

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> Iterator[Install]:
    """Install a distribution with adapter files whose package raises when it is imported; return their folder."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("ADAPTDOCK_SOURCES", str(site))  # without the adapters of the package's own index

    def make(name: str, *adapters: str, value: str | None = None) -> Path:
        package = name.replace("-", "_")
        folder = site / package / "files"
        folder.mkdir(parents=True)
        (site / package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        for adapter in adapters:
            write_file(folder / f"{adapter}.safetensors", build_adapter(backbone, "lora", name=adapter))
        info = site / f"{package}-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[adaptdock.files]\n{name} = {value or package + '.files'}\n")
        plugins.refresh()
        return folder

    yield make
    monkeypatch.undo()
    plugins.refresh()


def test_an_installed_adapter_is_found_by_the_name_of_its_file_and_nothing_is_imported(install: Install) -> None:
    folder = install("acme-names", "people", "places")
    adapter = find("people")
    assert (adapter.path, adapter.source) == (folder / "people.safetensors", "acme-names 2.0")
    assert [entry.name for entry in installed()] == ["people", "places"]
    assert "acme_names" not in sys.modules


def test_package_and_folder_may_be_divided_by_a_colon(install: Install) -> None:
    folder = install("acme-names", "people", value="acme_names:files")
    assert find("people").path == folder / "people.safetensors"


def test_it_is_docked_by_name(install: Install, dock: Dock) -> None:
    install("acme-names", "people")
    assert dock.load("people") == "people"
    assert len(dock.predict("people", ["ada in rome"])) == 1


def test_what_exists_as_a_path_is_one(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = install("acme-names", "people")
    monkeypatch.chdir(tmp_path)
    assert locate("people") == inside / "people.safetensors"
    (tmp_path / "people").write_bytes((inside / "people.safetensors").read_bytes())
    assert locate("people") == Path("people")


@pytest.mark.parametrize("text", ["people.safetensors", "./people", "folder/people"])
def test_what_looks_like_a_path_is_no_name(install: Install, text: str) -> None:
    install("acme-names", "people")
    assert locate(text) == Path(text)
    with pytest.raises(FileError, match="there is no such file"):
        read_card(locate(text))


def test_an_unknown_name_offers_the_nearest(install: Install) -> None:
    install("acme-names", "people")
    with pytest.raises(UnknownNameError, match=r"unknown adapter 'poeple': did you mean people\? adapt list shows"):
        locate("poeple")


def test_a_name_in_two_distributions_is_refused_with_both(install: Install) -> None:
    install("acme-names", "people")
    install("other-names", "people")
    with pytest.raises(PluginError, match=r"'people' is in acme-names 2\.0 and other-names 2\.0: uninstall one"):
        find("people")


@pytest.mark.parametrize("value", ["acme_names.nowhere", "no_such_package", "..", "acme_names...files"])
def test_an_entry_point_that_leads_nowhere_is_set_aside_and_breaks_nothing(install: Install, value: str) -> None:
    install("acme-names", "people", value=value)
    install("other-names", "places")
    assert [adapter.name for adapter in installed()] == ["places"]
    state = plugins.state(plugins.find("files", "acme-names"), check=True)
    assert not state.usable
    assert "acme-names 2.0 cannot be used" in state.reason


def test_the_wheel_of_a_published_adapter_is_found_by_its_name(
    published: Publish, install: Install, tmp_path: Path
) -> None:
    wheel = build_wheel(published(name="legal-places"), "acme-legal-places", tmp_path)
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")  # as pip does with a wheel of no scripts
    plugins.refresh()
    adapter = find("legal-places")
    assert adapter.distribution == "acme-legal-places"
    assert read_card(adapter.path).name == "legal-places"


def test_an_adapter_from_a_registry_is_found_by_its_name(published: Publish, registry: Path) -> None:
    published(name="legal-places", version="1.2")
    store.install(Sources([open_source(str(registry))]), "legal-places")
    adapter = find("legal-places")
    assert (adapter.version, adapter.path.is_file()) == ("1.2", True)


def test_a_link_out_of_the_folder_is_no_adapter(install: Install, tmp_path: Path) -> None:
    folder = install("acme-names", "people")
    (folder / "secret.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    (tmp_path / "elsewhere.safetensors").write_bytes((folder / "people.safetensors").read_bytes())
    assert [adapter.name for adapter in installed()] == ["people"]
