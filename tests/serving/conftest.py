"""A folder of adapters, and a process that serves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Client, labelled, serving

from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone


@pytest.fixture
def folder(tmp_path: Path, backbone: Backbone) -> Path:
    """A folder of three adapters, each of which finds its own label only."""
    folder = tmp_path / "adapters"
    for name, method in (("red", "lora"), ("green", "prefix"), ("blue", "bottleneck")):
        write_file(folder / f"{name}.safetensors", labelled(backbone, name.upper(), method))
    return folder


@pytest.fixture
def client(backbone: Backbone, folder: Path) -> Iterator[Client]:
    with serving(backbone, adapters=str(folder)) as client:
        yield client
