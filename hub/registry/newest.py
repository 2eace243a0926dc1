"""The newest installed version of each adapter, remembered after removal, so that an old index cannot downgrade it."""

from pathlib import Path

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, field_validator

from adaptdock.errors import FileError
from adaptdock.hub.artefact import directories
from adaptdock.hub.artefact.atomic import write_atomically
from adaptdock.hub.artefact.locks import changing
from adaptdock.hub.artefact.strict_json import read
from adaptdock.hub.registry.index import Entry


class _Newest(BaseModel):
    """The last installed version of each adapter, by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    versions: dict[str, str] = {}

    @field_validator("versions")
    @classmethod
    def _are_versions(cls, value: dict[str, str]) -> dict[str, str]:
        for version in value.values():
            try:
                Version(version)
            except InvalidVersion:
                raise ValueError(f"{version!r} is not a version") from None
        return value


def newest_installed(name: str) -> str | None:
    """Return the last installed version of an adapter; None if it never was installed."""
    return _read().versions.get(name)


def remember(entry: Entry) -> None:
    """Record an installed or just removed version; raise :class:`FileError` if the record cannot be written."""
    path = _file()
    with changing(path):  # another process may add a version between read and write
        versions = {**_read().versions, entry.name: entry.version}
        try:
            write_atomically(path, _Newest(versions=versions).model_dump_json(indent=2).encode() + b"\n")
        except OSError as error:
            raise FileError(path, f"it could not be saved: {error.strerror or error}") from error


def _read() -> _Newest:
    path = _file()
    return read(path, _Newest) if path.exists() else _Newest()


def _file() -> Path:
    return directories.home() / "newest.json"
