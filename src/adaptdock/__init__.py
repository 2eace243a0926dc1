"""adaptdock: one frozen backbone, many small adapters docked into it.

>>> from adaptdock import Dock
>>> dock = Dock.open("minilm")
>>> name = dock.load("ner.safetensors")
>>> dock.predict(name, ["Ada Lovelace lived in London."])
[{'text': 'Ada Lovelace lived in London.', 'entities': [...]}]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptdock.engine.inference.dock import Dock as Dock
    from adaptdock.engine.inference.residency import Residency as Residency
    from adaptdock.engine.training.train import train as train
    from adaptdock.errors import AdaptError as AdaptError
    from adaptdock.hub.artefact.file import read_card as read_card
    from adaptdock.serving.client.client import AsyncClient as AsyncClient
    from adaptdock.serving.client.client import Client as Client

__version__ = "0.1.0"

_HOME = {
    "AdaptError": "adaptdock.errors",
    "AsyncClient": "adaptdock.serving.client.client",
    "Client": "adaptdock.serving.client.client",
    "Dock": "adaptdock.engine.inference.dock",
    "Residency": "adaptdock.engine.inference.residency",
    "read_card": "adaptdock.hub.artefact.file",
    "train": "adaptdock.engine.training.train",
}
__all__ = ["AdaptError", "AsyncClient", "Client", "Dock", "Residency", "__version__", "read_card", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that ``import adaptdock`` does not import torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'adaptdock' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Return the public names only."""
    return list(__all__)
