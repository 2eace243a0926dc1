"""``adapt sample``: the sample data of a task as files."""

from pathlib import Path

import click

from adaptdock.cli.common.output import note, say
from adaptdock.errors import FileError, UsageError
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.plugins import registry


@click.command("sample")
@click.argument("task")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def command(task: str, folder: Path | None) -> None:
    """Write the sample data of a TASK into a FOLDER: one file each for training, validation and test.

    The files show the format that the task reads. FOLDER defaults to TASK-sample. Existing files are not overwritten.
    """
    folder = folder or Path(f"{task}-sample")
    for path in write_sample(registry.load("task", task).sample, folder):
        say(str(path))
    note(f"Next: adapt train --task {task} --data {folder}")


def write_sample(sample: Path, folder: Path) -> list[Path]:
    """Copy the files of a sample into a folder and return the copies.

    Raises :class:`UsageError` for an existing file, and :class:`FileError` for a failed write, which leaves no file.
    """
    sources = sorted(path for path in sample.iterdir() if path.is_file())
    existing = next((folder / source.name for source in sources if (folder / source.name).exists()), None)
    if existing is not None:
        raise UsageError(f"{existing} exists and is not overwritten: name another folder")
    copies: list[Path] = []
    try:
        for source in sources:
            write_atomically(folder / source.name, source.read_bytes())
            copies.append(folder / source.name)
    except OSError as error:
        for copy in copies:
            copy.unlink()
        raise FileError(folder, f"the sample cannot be written here: {error.strerror or error}") from error
    return copies
