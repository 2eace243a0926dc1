"""Where a training run writes: checked before the work, so that its result has a place to go."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adaptdock.cli.training.settings import CONFIG, Settings
from adaptdock.engine.training.run_folders import BEST, owned_run
from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.file import read_card, read_file
from adaptdock.hub.artefact.locks import NAME as LOCK

LOG = "train.log"
WRITTEN = (CONFIG, BEST, LOG, "log.jsonl", "metrics.json", "curves.png", "report.html", "folds.json")
"""What a run leaves in its folder, beside the checkpoints."""


@contextmanager
def run_folder(folder: Path, automatic: bool = False) -> Iterator[Path]:
    """Own a run's folder until the block ends, and yield it; an ``automatic`` name gets a number where it is taken.

    Raises :class:`UsageError` for a file, and at once where another process owns the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --run-dir names a folder")
    with owned_run(folder, automatic) as place:
        yield place


def check_places(settings: Settings, resume: bool) -> None:
    """Refuse to go on where output or folder are taken or cannot be written.

    Raises :class:`UsageError` for what exists already, :class:`FileError` for what cannot be written.
    """
    if resume:
        check_unfinished(settings.run_dir, [settings.run_dir / BEST])
    check_output(settings.output, settings.run_dir / BEST, settings.overwrite, resume)
    check_folder(settings.run_dir, settings.overwrite, resume)


def check_output(output: Path, best: Path, overwrite: bool, resume: bool) -> None:
    """Refuse an adapter file that is there already (other than the run's own), or cannot be written."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder; --output names the adapter file")
    if output.exists() and not overwrite and not (resume and _same(output, best)):
        raise UsageError(f"{output} exists already: give another --output, or --overwrite to replace it")
    _check_writable(output.parent)


def check_folder(folder: Path, overwrite: bool, resume: bool) -> None:
    """Refuse a run's folder in which there is something else, or nothing can be written."""
    content = [file for file in folder.iterdir() if file.name != LOCK] if folder.exists() else []
    if not resume and content and not (overwrite and (folder / CONFIG).is_file()):
        raise UsageError(
            f"the folder {folder} is not empty: give another --run-dir, go on with the run in it by --resume {folder}, "
            f"or replace that run by --overwrite"
        )
    _check_writable(folder)


def clear(folder: Path) -> None:
    """Make a run's folder, without what an earlier run left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:
        (folder / name).unlink(missing_ok=True)
    for old in (folder / "checkpoints", *folder.glob("round-*"), *folder.glob("fold-*")):
        shutil.rmtree(old, ignore_errors=True)


def check_unfinished(folder: Path, best: Sequence[Path]) -> None:
    """Refuse a run all of whose adapters were trained to the end."""
    if all(file.exists() and read_card(file).training.get("ending") in ("complete", "early") for file in best):
        files = " and ".join(map(str, best))
        raise UsageError(
            f"the run in {folder} came to its end; {'its adapter is' if len(best) == 1 else 'see'} {files}"
        )


def _check_writable(folder: Path) -> None:
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as stream:
            stream.write(b"0")
    except OSError as error:
        raise FileError(folder, f"nothing can be written there: {error.strerror or error}") from None


def _same(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same adapter (the order within a header may differ)."""
    try:
        mine, its = read_file(one), read_file(other)
    except FileError:
        return False
    same_names = mine.tensors.keys() == its.tensors.keys()
    return mine.card == its.card and same_names and all(t.equal(its.tensors[n]) for n, t in mine.tensors.items())
