"""Folders of runs: names from task, method and time, and exclusive folders."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from adaptdock.engine.core.distributed import ranks, shared
from adaptdock.hub.artefact.atomic import numbered
from adaptdock.hub.artefact.locks import acquire, owned, release

BEST, IDENTITY = "best.safetensors", "identity.json"
"""Files in a run's folder: the best adapter so far, and fingerprints of data, backbone and options."""


def run_name(task: str, method: str) -> Path:
    """Return the folder name of a run that begins now: ``runs/<task>-<method>-<time>``."""
    return Path("runs") / f"{task}-{method}-{datetime.now():%Y%m%d-%H%M%S}"


def fresh_folder(task: str, method: str) -> Path:
    """Make a new folder for a run and return it, the same in all processes."""
    return shared(_numbered_folder(run_name(task, method)) if ranks().first else Path())


def _numbered_folder(name: Path) -> Path:
    for folder in numbered(name):
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("there is always a next number")


@contextmanager
def owned_by_first(folder: Path) -> Iterator[None]:
    """Own a folder in the first of several processes, the only process that writes there.

    Raises the errors of :func:`acquire`.
    """
    with owned(folder) if ranks().first else nullcontext():
        yield


@contextmanager
def owned_run(folder: Path, automatic: bool) -> Iterator[Path]:
    """Own a run's folder until the block ends, and yield it; an ``automatic`` name gets a number if it is taken.

    Raises the errors of :func:`acquire`.
    """
    if not ranks().first:
        yield shared(folder)
        return
    if not automatic:
        lock = acquire(folder)
    else:
        folder, lock = _acquire_new(folder)
    try:
        yield shared(folder)
    finally:
        release(lock)


def _acquire_new(folder: Path) -> tuple[Path, Path]:
    for place in numbered(folder):
        with suppress(FileExistsError):
            return place, acquire(place, new=True)
    raise AssertionError("there is always a next number")
