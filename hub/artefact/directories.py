"""Where things lie on this machine: what was installed, and what can be fetched or computed again."""

import os
from pathlib import Path


def home() -> Path:
    """Return the folder of what a person installed and trusts: ``ADAPTDOCK_HOME``, or ``~/.local/share/adaptdock``."""
    return _folder("ADAPTDOCK_HOME", ".local/share")


def cache() -> Path:
    """Return the folder of what can be had again: ``ADAPTDOCK_CACHE``, or ``~/.cache/adaptdock``."""
    return _folder("ADAPTDOCK_CACHE", ".cache")


def _folder(variable: str, usual: str) -> Path:
    named = os.environ.get(variable)
    return Path(named).expanduser() if named else Path.home() / usual / "adaptdock"
