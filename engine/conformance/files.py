"""The checks of a distribution of adapter files: readable files, valid cards, no code and no pickles."""

from functools import partial
from pathlib import Path

from adaptdock.engine.conformance.check import Check, expect
from adaptdock.engine.core.assembly import make_method, make_task
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import read_file
from adaptdock.hub.registry.installed import find
from adaptdock.plugins import registry
from adaptdock.plugins.files import adapter_files

CODE = (".py", ".pyc", ".so", ".pyd", ".pth", ".bin", ".pt", ".pkl", ".pickle", ".ckpt")
"""Suffixes of code and of files that may hold pickles."""


def file_checks(name: str, model: str | None) -> list[Check]:
    """Return the checks of adapter files; ``model`` has no meaning here."""
    checks = [
        Check("its folder holds adapter files", partial(_files, name)),
        Check("its folder holds no code and no pickles", partial(_no_code, name)),
        Check("each file can be found by its name", partial(_found, name)),
    ]
    try:
        files = _files(name)
    except AdaptError:
        files = []  # the first check tells why
    for file in files:
        checks.append(
            Check(f"{file.name}: its content matches its checksum, its card is valid", partial(read_file, file))
        )
        checks.append(Check(f"{file.name}: its task and methods are installed", partial(_plugins, file)))
    return checks


def _files(name: str) -> list[Path]:
    folder: Path = registry.load("files", name)
    files = adapter_files(folder)
    expect(files, f"{folder} holds no adapter file; adapt train --output writes an adapter file")
    return files


def _no_code(name: str) -> None:
    folder: Path = registry.load("files", name)
    code_files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in CODE)
    expect(not code_files, f"the folder holds {', '.join(code_files)}")


def _found(name: str) -> None:
    for file in _files(name):
        expect(find(file.stem).path == file, f"the name {file.stem!r} leads to {find(file.stem).path}")


def _plugins(file: Path) -> None:
    card = read_file(file).card
    make_task(card.task.name, card.task.options)
    for entry in (*card.methods, *(entry for base in card.on for entry in base.methods)):
        make_method(entry.name, entry.options)
