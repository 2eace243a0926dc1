"""Publishing: what is complete is added to an index, whole; what is not is refused with all that is missing."""

import json
import subprocess
import sys
from datetime import datetime, tzinfo
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from publishing import Publish

from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.file import read_file
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry import publishing
from adaptdock.hub.registry.index import Index
from adaptdock.hub.registry.publishing import build_wheel, publish
from adaptdock.hub.registry.sources import Wheels


def test_the_entry_tells_what_the_file_is(published: Publish, registry: Path) -> None:
    publication = published()
    entry = read(registry / "registry.json", Index).find("places")
    assert entry == publication.entry
    assert (registry / entry.file).read_bytes().__len__() == entry.size
    assert entry.metrics == {"towns": {"f1": 61.5}}
    card = read_file(registry / entry.file).card
    assert (card.licence, card.languages, card.description) == ("CC0-1.0", ["en"], "Finds places and people.")


def test_all_that_a_card_lacks_is_said_at_once(trained: Path, registry: Path) -> None:
    with pytest.raises(UsageError, match=r"missing: --description, --licence, --language$"):
        publish(trained, registry, "acme", "towns")
    assert not registry.exists()


def test_an_adapter_without_test_metrics_is_refused(
    trained: Path, registry: Path, monkeypatch: pytest.MonkeyPatch, published: Publish
) -> None:
    monkeypatch.setattr(publishing, "MEASURED", "other")
    with pytest.raises(UsageError, match="metrics on test data"):
        published()


@pytest.mark.parametrize("name", ["Places", "plätze", "../places", "pla ces", "рlaces"])
def test_a_name_that_cannot_be_published_is_refused_before_anything_is_written(
    published: Publish, registry: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="name"):
        published(name=name)
    assert not registry.exists()


def test_a_version_never_changes(published: Publish, registry: Path) -> None:
    published()
    before = (registry / "registry.json").read_bytes()
    with pytest.raises(UsageError, match=r"places@1 is in the registry with other content.*--version"):
        published(description="Something else.")
    assert (registry / "registry.json").read_bytes() == before
    assert sorted(path.name for path in (registry / "published").iterdir()) == [
        "places-1.html",
        "places-1.md",
        "places-1.safetensors",
    ]
    assert published(description="Something else.", version="1.1").entry.version == "1.1"


def test_a_name_that_looks_like_another_is_refused(published: Publish) -> None:
    published()
    with pytest.raises(UsageError, match="looks like 'places'"):
        published(name="p1aces")


def test_the_card_can_be_read_by_a_hub_and_by_a_browser(published: Publish) -> None:
    publication = published(description="Finds <b>places</b> & people | towns.")
    head = yaml.safe_load(publication.card.read_text().split("---")[1])
    assert head["license"] == "cc0-1.0"
    assert head["language"] == ["en"]
    assert "| f1 | 61.5 |" in publication.card.read_text()
    parser, tags = HTMLParser(), []
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(publication.page.read_text())
    assert "b" not in tags
    assert "&lt;b&gt;places&lt;/b&gt; &amp; people" in publication.page.read_text()


def test_an_index_that_cannot_be_written_leaves_the_old_one(
    published: Publish, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published()
    before = (registry / "registry.json").read_bytes()

    def full(path: Path, blob: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "write_atomically", full)
    with pytest.raises(FileError, match="No space left"):
        published(version="2")
    assert (registry / "registry.json").read_bytes() == before


def test_the_schema_of_the_index_is_the_one_that_is_documented() -> None:
    documented = Path(__file__).parents[3] / "docs" / "registry.schema.json"
    assert json.loads(documented.read_text()) == Index.model_json_schema()


def test_pip_installs_the_wheel_and_its_file_is_the_published_one(published: Publish, tmp_path: Path) -> None:
    publication = published()
    wheel = build_wheel(publication, "acme-places", tmp_path)
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    assert (target / "acme_places" / "places.safetensors").read_bytes() == publication.file.read_bytes()
    points = (target / "acme_places-1.dist-info" / "entry_points.txt").read_text()
    assert points == "[adaptdock.files]\nplaces = acme_places\n"
    (entry,) = Wheels(f"wheels:{tmp_path}").index().adapters
    assert (entry.sha256, entry.publisher) == (publication.entry.sha256, "acme")


def test_publishing_the_same_adapter_again_changes_no_byte(
    published: Publish, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content() -> dict[str, bytes]:
        return {str(path.relative_to(registry)): path.read_bytes() for path in registry.rglob("*") if path.is_file()}

    published()
    before = content()

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Later":
            return cls(2099, 1, 1, tzinfo=tz)

    monkeypatch.setattr(publishing, "datetime", Later)
    published()
    assert content() == before
