"""The record of a training in a card: its arguments, hashes of its data, and versions of the libraries."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaptdock.errors import UsageError
from adaptdock.hub.artefact.card import Card

SHA256 = Field(pattern=r"^[0-9a-f]{64}$")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class DataFile(_Model):
    """A file of the data: its name without folders, and its SHA-256."""

    name: str
    sha256: str = SHA256


class RecordedSource(_Model):
    """A source of data: names of files without folders, and their layout."""

    data: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    format: str | None = None
    columns: dict[str, str] = {}
    encoding: str = "utf-8"
    in_memory: bool = False
    """Whether data were objects of a Python program."""
    hub: bool = False
    """Whether data were a data set of a hub."""


class Arguments(_Model):
    """The arguments of a training, before any decision."""

    method: str
    method_options: dict[str, Any] = {}
    task_options: dict[str, Any] = {}
    training: dict[str, Any] = {}
    source: RecordedSource = RecordedSource()
    files: list[DataFile] = []
    may_undivide: bool = True


class TrainingRecord(_Model):
    """The part of a card's ``training`` that a provenance and a rebuild need."""

    arguments: Arguments
    data_sha256: dict[str, str]
    """By split, the SHA-256 of the records."""
    libraries: dict[str, str]
    python: str
    precision: str
    quantized: str | None = None


def training_record(card: Card) -> TrainingRecord | None:
    """Return the record of an adapter's training; None for a card without.

    Raises :class:`UsageError` for a record that is not valid.
    """
    if not card.training.get("arguments"):
        return None
    try:
        return TrainingRecord.model_validate(card.training)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"the record of the training in the card of {card.name!r} is not valid: {place}: {first['msg']}"
        ) from None
