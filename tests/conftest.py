"""Fixtures that several rooms use: a tiny backbone, and adapters for it."""

import os

# Before numpy and scipy are imported, and for programs that tests start: where there are more threads than cores, those
# of BLAS wait for each other actively, and a training run on tiny data takes three times the time.
os.environ["OMP_NUM_THREADS"] = "1"

# isort: split

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders import build_adapter
from hypothesis import settings
from models import tiny_bert

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone, LoadOptions

torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None)  # a first call may import, and the machine be busy
settings.load_profile("any machine")


modules = 0
"""How many modules were imported when objects were last exempted from garbage collection."""


def exempt_modules() -> None:
    """Exempt imported modules from garbage collection where there are more than last time.

    accelerate starts a full collection in every training run, which takes half a second over the modules of torch and
    transformers and finds nothing in them.
    """
    global modules
    if len(sys.modules) > modules:
        modules = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_collection_finish() -> None:
    exempt_modules()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    exempt_modules()  # libraries that a test was the first to need


NAMES = ["ada", "bob", "eve", "joe"]
WORDS = ["runs", "in", "the", "rain", "and", "sings"]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def backbone(model_folder: Path) -> Backbone:
    return load_backbone(str(model_folder), LoadOptions(device="cpu"))


@pytest.fixture
def dock(backbone: Backbone) -> Iterator[Dock]:
    opened = Dock(backbone)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def adapters(backbone: Backbone) -> dict[str, AdapterFile]:
    """An adapter of each method, with random weights, tagging two, three or four entity types."""
    return {
        "lora": build_adapter(backbone, "lora", {"rank": 3}, labels=("LOC", "PER")),
        "lora-wide": build_adapter(backbone, "lora", {"rank": 5, "roles": "all", "rslora": True}, labels=("LOC",)),
        "bottleneck": build_adapter(backbone, "bottleneck", {"reduction_factor": 4}, labels=("A", "B", "C")),
        "parallel": build_adapter(backbone, "bottleneck", {"parallel": True, "scale": 2.0}, labels=("A", "B")),
        "prefix": build_adapter(backbone, "prefix", {"length": 5}, labels=("LOC", "ORG", "PER")),
        "prefix-short": build_adapter(backbone, "prefix", {"length": 2, "gate": False}, labels=("X",)),
        "ia3": build_adapter(backbone, "ia3", labels=("LOC", "PER")),
        "ia3-wide": build_adapter(backbone, "ia3", {"roles": "all", "feed_forward": False}, labels=("A", "B", "C")),
        "dora": build_adapter(backbone, "dora", {"rank": 3}, labels=("LOC", "ORG", "PER")),
        "dora-wide": build_adapter(backbone, "dora", {"rank": 5, "roles": "all", "rslora": True}, labels=("X",)),
        "prompt": build_adapter(backbone, "prompt", {"length": 5}, labels=("LOC", "PER")),
        "prompt-short": build_adapter(backbone, "prompt", {"length": 2}, labels=("A", "B", "C")),
        "mam": build_adapter(backbone, "mam", {"length": 3, "reduction_factor": 4}, labels=("LOC", "PER")),
    }


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that a tiny random model learns: four names are persons."""
    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 60), ("validation", 20), ("test", 20)):
        sentences = []
        for _ in range(count):
            picks = torch.randint(0, 10, (6,), generator=generator).tolist()
            words = [(NAMES + WORDS)[pick] for pick in picks]
            sentences.append("".join(f"{word}\t{'B-PER' if word in NAMES else 'O'}\n" for word in words))
        (folder / f"{split}.conll").write_text("\n".join(sentences))
    return folder
