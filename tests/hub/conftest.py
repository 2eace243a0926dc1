"""A machine of its own for each test, and a registry with one published adapter."""

from pathlib import Path
from typing import Any

import pytest
from publishing import Publish

from adaptdock.hub.artefact.file import AdapterFile, write_file
from adaptdock.hub.registry.publishing import Published, publish

CARD: dict[str, Any] = {"licence": "CC0-1.0", "languages": ["en"], "description": "Finds places and people."}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of a person who has nothing installed and trusts nobody."""
    monkeypatch.setenv("ADAPTDOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADAPTDOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADAPTDOCK_SOURCES", raising=False)
    return tmp_path / "home"


@pytest.fixture
def trained(adapters: dict[str, AdapterFile], tmp_path: Path) -> Path:
    """An adapter file with metrics on test data, named ``places``."""
    adapter = adapters["lora"]
    card = adapter.card.model_copy(update={"name": "places", "metrics": {"test": {"f1": 61.5, "by_type": {}}}})
    write_file(tmp_path / "trained.safetensors", AdapterFile(card, adapter.tensors))
    return tmp_path / "trained.safetensors"


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """The folder of a registry, which is made when something is published."""
    return tmp_path / "registry"


@pytest.fixture
def published(trained: Path, registry: Path) -> Publish:
    """Publish the adapter; arguments are those of :func:`publish`."""

    def run(**fields: Any) -> Published:
        metadata = {"publisher": "acme", "test_set": "towns", **CARD, **fields}
        return publish(trained, registry, **metadata)

    return run
