"""Folders of runs: a name that says what is trained, and a folder that no other run has."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from adaptdock.engine.core.distributed import ranks, shared
from adaptdock.hub.artefact.atomic import numbered
from adaptdock.hub.artefact.locks import acquire, owned, release

BEST, IDENTITY = "best.safetensors", "identity.json"
"""Files in a run's folder: the best adapter so far, and the fingerprints of what it is trained from."""


def run_name(task: str, method: str) -> Path:
    """Return what the folder of a run is called that begins now: ``runs/<task>-<method>-<time>``."""
    return Path("runs") / f"{task}-{method}-{datetime.now():%Y%m%d-%H%M%S}"


def fresh_folder(task: str, method: str) -> Path:
    """Make a folder for a run, which no other run can have made, and return it, the same in all processes."""
    return shared(_made(run_name(task, method)) if ranks().first else Path())


def _made(name: Path) -> Path:
    for folder in numbered(name):
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("there is always a next number")


@contextmanager
def owned_by_first(folder: Path) -> Iterator[None]:
    """Own a folder in the first of several processes, which alone writes there.

    Raises what :func:`acquire` raises.
    """
    with owned(folder) if ranks().first else nullcontext():
        yield


@contextmanager
def owned_run(folder: Path, automatic: bool) -> Iterator[Path]:
    """Own a run's folder until the block ends, and yield it: with a number at its end where its name is ``automatic``.

    Raises what :func:`acquire` raises.
    """
    if not ranks().first:
        yield shared(folder)
        return
    if not automatic:
        lock = acquire(folder)
    else:
        folder, lock = _new(folder)
    try:
        yield shared(folder)
    finally:
        release(lock)


def _new(folder: Path) -> tuple[Path, Path]:
    for place in numbered(folder):
        with suppress(FileExistsError):
            return place, acquire(place, new=True)
    raise AssertionError("there is always a next number")
