"""Output paths of a training run: checked before the work, so that no result is lost for want of a place."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adaptdock.cli.training.settings import CONFIG, Settings
from adaptdock.engine.evaluation.label_curve import FILE as LABEL_CURVE
from adaptdock.engine.training.loop.run_folders import BEST, owned_run
from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.file import read_card, read_file
from adaptdock.hub.artefact.locks import NAME as LOCK

LOG = "train.log"
WRITTEN = (CONFIG, BEST, LOG, "log.jsonl", "metrics.json", "curves.png", "report.html", "folds.json", LABEL_CURVE)
"""Files that a run writes to its folder, besides checkpoints."""


@contextmanager
def run_folder(folder: Path, automatic: bool = False) -> Iterator[Path]:
    """Own a run's folder until the block ends, and yield it; an ``automatic`` name gets a number if it is taken.

    Raises :class:`UsageError` for a file, and at once if another process owns the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --run-dir names a folder")
    with owned_run(folder, automatic) as owned_folder:
        yield owned_folder


def check_places(settings: Settings, resume: bool) -> None:
    """Check the output files and the run's folder before the work.

    Raises :class:`UsageError` if one of them is taken, :class:`FileError` if it cannot be written.
    """
    best = {name: folder / BEST for name, folder in settings.folders.items()}
    if resume:
        _check_unfinished(settings.run_dir, list(best.values()))
    for name, file in settings.files.items():
        _check_output(file, best[name], settings.overwrite, resume)
    _check_folder(settings.run_dir, settings.overwrite, resume)


def _check_output(output: Path, best: Path, overwrite: bool, resume: bool) -> None:
    """Refuse an existing output file, except the file of the resumed run itself, and a folder without write access."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder; --output names the adapter file")
    if output.exists() and not overwrite and not (resume and _same(output, best)):
        raise UsageError(f"{output} exists already: give another --output, or --overwrite to replace it")
    _check_writable(output.parent)


def _check_folder(folder: Path, overwrite: bool, resume: bool) -> None:
    """Refuse a run's folder that has other content, or without write access."""
    other_files = [file for file in folder.iterdir() if file.name != LOCK] if folder.exists() else []
    if not resume and other_files and not (overwrite and (folder / CONFIG).is_file()):
        raise UsageError(
            f"the folder {folder} is not empty: give another --run-dir, continue the run in it with --resume {folder}, "
            f"or replace that run with --overwrite"
        )
    _check_writable(folder)


def begin(settings: Settings) -> None:
    """Make the folders of a run, delete the files of an earlier run in them, and write the settings."""
    for folder in (settings.run_dir, *settings.folders.values()):
        folder.mkdir(parents=True, exist_ok=True)
        for name in WRITTEN:
            (folder / name).unlink(missing_ok=True)
        for leftover in (
            folder / "checkpoints",
            folder / "few-labels",
            folder / "curve",
            *folder.glob("round-*"),
            *folder.glob("fold-*"),
            *folder.glob("seed-*"),
        ):
            shutil.rmtree(leftover, ignore_errors=True)
    settings.write()


def _check_unfinished(folder: Path, best: Sequence[Path]) -> None:
    """Refuse to resume a run whose adapters are all complete."""
    if all(file.exists() and read_card(file).training.get("ending") in ("complete", "early") for file in best):
        files = " and ".join(map(str, best))
        raise UsageError(
            f"the run in {folder} came to its end; {'its adapter is' if len(best) == 1 else 'see'} {files}"
        )


def _check_writable(folder: Path) -> None:
    nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:  # a written byte also shows a full disk or a read-only mount, which permissions do not
        with tempfile.TemporaryFile(dir=nearest) as stream:
            stream.write(b"0")
    except OSError as error:
        raise FileError(folder, f"nothing can be written there: {error.strerror or error}") from None


def _same(first_path: Path, second_path: Path) -> bool:
    """Return whether two files hold the same adapter (the order within a header may differ)."""
    try:
        first, second = read_file(first_path), read_file(second_path)
    except FileError:
        return False
    same_names = first.tensors.keys() == second.tensors.keys()
    return (
        first.card == second.card
        and same_names
        and all(tensor.equal(second.tensors[name]) for name, tensor in first.tensors.items())
    )
