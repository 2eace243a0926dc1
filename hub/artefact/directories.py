"""Folders of this machine: for installed data, and for caches."""

import os
from pathlib import Path


def home() -> Path:
    """Return the folder of installed adapters, keys and trust: ``ADAPTDOCK_HOME``, or ``~/.local/share/adaptdock``."""
    return _folder("ADAPTDOCK_HOME", ".local/share")


def cache() -> Path:
    """Return the folder of downloads and other data to recreate: ``ADAPTDOCK_CACHE``, or ``~/.cache/adaptdock``."""
    return _folder("ADAPTDOCK_CACHE", ".cache")


def _folder(variable: str, usual: str) -> Path:
    return Path(os.environ.get(variable) or f"~/{usual}/adaptdock").expanduser()
