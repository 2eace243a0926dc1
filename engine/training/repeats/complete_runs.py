"""Runs that are complete within a longer training: their reports, and their results read back from the files."""

import json
from pathlib import Path

from adaptdock.engine.training.loop.run_folders import BEST
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan
from adaptdock.errors import FileError
from adaptdock.hub.artefact.file import read_file

LOG = "log.jsonl"
"""The last file of a run's report: if it exists, the run is complete."""


def read_complete(folder: Path) -> Result | None:
    """Return the result of a complete run from its files, or None."""
    if not (folder / LOG).exists():
        return None
    adapter = read_file(folder / BEST)
    training = adapter.card.training
    return Result(
        adapter=adapter,
        file=folder / BEST,
        size=(folder / BEST).stat().st_size,
        epochs=training["epochs_run"],
        seconds=training["seconds"],
        history=[json.loads(line) for line in (folder / LOG).read_text().splitlines()],
        ending=training["ending"],
    )


def report_complete(folder: Path, plan: Plan, result: Result) -> None:
    """Write the report of a complete run; raise :class:`FileError` if that fails."""
    try:
        result.report(folder, plan)
    except OSError as error:
        raise FileError(folder, f"the report of a run could not be written: {error.strerror or error}") from None
