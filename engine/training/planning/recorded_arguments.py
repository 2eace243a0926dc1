"""The arguments of a training as a card records them: for training again (:mod:`rebuild`), and for a provenance."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptdock.engine.data.file_lists import file_list
from adaptdock.engine.data.folders import split_files
from adaptdock.engine.data.objects import Table
from adaptdock.engine.data.sources import SPLITS, Source
from adaptdock.engine.training.planning.hyperparameters import TrainingOptions
from adaptdock.errors import DataError
from adaptdock.hub.artefact.training_record import Arguments, DataFile, RecordedSource
from adaptdock.plugins.contracts import Composite, Method

PLACES = ("data", *SPLITS)
"""The fields of a source that name files."""


def arguments_of(
    method: str,
    methods: Iterable[tuple[str, Method]],
    options: TrainingOptions,
    method_options: Mapping[str, Any] | None,
    task_options: Mapping[str, Any] | None,
    source: Source,
    files: Sequence[DataFile],
    may_undivide: bool,
) -> dict[str, Any]:
    """Return the arguments of a training as JSON; of files, the names without their folders.

    Empty for a method that is made of trained adapters, whose files no card holds.
    """
    if any(isinstance(instance, Composite) for _, instance in methods):
        return {}
    arguments = Arguments(
        method=method,
        method_options={**options.method_options, **(method_options or {})},
        task_options=dict(task_options or {}),
        training=options.described(),
        source=_described(source),
        files=list(files),
        may_undivide=may_undivide,
    )
    plain: dict[str, Any] = json.loads(json.dumps(arguments.model_dump(), default=list))
    return plain


def file_digests(source: Source) -> list[DataFile]:
    """Return name and SHA-256 of each data file, in the order of the splits.

    Of a folder, the files of its splits; other folders (texts by class, exports of annotation tools) and data sets of
    a hub have no digest here. The digests of the records cover those.
    """
    files = [file for name in _names(source).values() for file in _files(name)]
    return [DataFile(name=file.name, sha256=_sha256(file)) for file in files]


def _names(source: Source) -> dict[str, str]:
    parts = {name: getattr(source, name) for name in PLACES}
    return {name: part for name, part in parts.items() if isinstance(part, str)}


def _files(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        try:
            return [file for files in split_files(path).values() for file in files]
        except (DataError, OSError):
            return []  # the reader of the data says what is wrong
    parts = [path] if path.exists() else file_list(name) or [Path(part.strip()) for part in name.split(",")]
    return [part for part in parts if part.is_file()]


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file}: it cannot be read: {error.strerror or error}") from None


def _described(source: Source) -> RecordedSource:
    names = _names(source)
    is_local = {name: Path(place).is_dir() or bool(_files(place)) for name, place in names.items()}
    shown = {name: _without_folders(place) if is_local[name] else place for name, place in names.items()}
    return RecordedSource(
        **shown,
        format=source.format,
        columns=dict(source.columns),
        encoding=source.encoding,
        in_memory=any(isinstance(getattr(source, name), Table) for name in PLACES),
        hub=not all(is_local.values()),
    )


def _without_folders(place: str) -> str:
    """Return a path, pattern or comma-separated list of paths without the folders."""
    parts = [place] if Path(place).exists() else place.split(",")
    return ",".join(Path(part.strip()).resolve().name for part in parts)
