"""The index of published adapters, ``registry.json``, version 1, with an entry per version of each adapter."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import PurePosixPath
from typing import Any, Literal, Self

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from adaptdock.errors import UnknownNameError, UsageError
from adaptdock.hub.artefact.card import Card

NAME = r"^[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9])?$"
"""Names of published adapters: lower-case ASCII, so that no name imitates another with letters of another script."""
LINE = r"^[^\x00-\x1f\x7f]+$"
LOOKALIKES = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "_": "-", ".": "-"})


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Backbone(_Model):
    """The backbone of an adapter. The fingerprint decides whether a backbone fits; the id helps to find it."""

    id: str = Field(min_length=1)
    fingerprint: str = Field(min_length=8)


class Entry(_Model):
    """One version of a published adapter, with the size and hash that its file must have."""

    name: str = Field(pattern=NAME)
    version: str
    task: str
    methods: list[str] = Field(min_length=1)
    backbone: Backbone
    file: str
    """A path in the folder of the index, or an ``https://`` address."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(gt=0, le=2**40)
    licence: str = Field(pattern=LINE)
    languages: list[str] = Field(min_length=1)
    metrics: dict[str, dict[str, Any]] = {}
    """Metrics by the name of the test set."""
    description: str = Field(min_length=1)
    publisher: str = Field(pattern=LINE, max_length=100)
    published: date | None = None
    needs: list[str] = []
    """Distributions with code, such as ``acme-methods``, whose plugins the adapter needs."""
    key: str = ""
    signature: str = ""

    @field_validator("version")
    @classmethod
    def _is_a_version(cls, value: str) -> str:
        try:
            Version(value)
        except InvalidVersion:
            raise ValueError(f"{value!r} is not a version such as 1 or 1.2.0") from None
        return value

    @field_validator("file")
    @classmethod
    def _stays_within(cls, value: str) -> str:
        if value.startswith("https://"):
            return value
        path = PurePosixPath(value)
        # A colon could be a drive or a scheme, and a backslash a separator on Windows.
        if ":" in value or "\\" in value or "\0" in value:
            raise ValueError(
                f"{value!r} is neither a path in the folder of the index nor an address that begins with https://"
            )
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{value!r} leads out of the folder of the index")
        return value

    @model_validator(mode="after")
    def _key_and_signature(self) -> Self:
        if bool(self.key) != bool(self.signature):
            raise ValueError("key and signature come together, or not at all")
        return self

    @property
    def label(self) -> str:
        """Name and version, such as ``ner@1.2.0``."""
        return f"{self.name}@{self.version}"

    @property
    def order(self) -> Version:
        """The sort key of versions (PEP 440)."""
        return Version(self.version)


class Revocation(_Model):
    """A key, or a file by its sha256, that is no longer trusted, and the reason."""

    key: str = ""
    sha256: str = ""
    reason: str = Field(min_length=1)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if bool(self.key) == bool(self.sha256):
            raise ValueError("a revocation names a key or a sha256")
        return self


class Index(_Model):
    """The content of ``registry.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="adaptdock registry, version 1")
    version: Literal[1] = 1
    adapters: list[Entry] = []
    revoked: list[Revocation] = []

    @model_validator(mode="after")
    def _each_version_once(self) -> Self:
        labels = [entry.label for entry in self.adapters]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} appears twice among the adapters")
        return self

    def find(self, name: str, version: str | None = None) -> Entry | None:
        """Return a version of an adapter, by default the newest one not withdrawn; None without a match."""
        matches = [entry for entry in self.adapters if entry.name == name and version in (None, entry.version)]
        return max(matches, key=lambda entry: (not self.withdrawn(entry), entry.order), default=None)

    def withdrawn(self, entry: Entry) -> bool:
        """Return whether the file of an entry, or the key that signed it, is revoked."""
        return any(
            revocation.sha256 == entry.sha256 or (revocation.key and revocation.key == entry.key)
            for revocation in self.revoked
        )

    def added(self, entry: Entry) -> "Index":
        """Return an index with another entry, which replaces an entry with the same name and version."""
        others = [published for published in self.adapters if published.label != entry.label]
        entries = sorted([*others, entry], key=lambda published: (published.name, published.order))
        return Index(adapters=entries, revoked=self.revoked)

    def to_json(self) -> str:
        """Return the text of ``registry.json``."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


def make_entry(where: object, card: Card, blob: bytes, file: str, **fields: Any) -> Entry:
    """Return the entry of an adapter file, from its card and content; ``fields`` are those not on the card.

    Raises :class:`UsageError`, naming ``where``, for a card or file that cannot be published.
    """
    try:
        return Entry(
            name=card.name,
            version=card.version,
            task=card.task.name,
            methods=[method.name for method in card.methods],
            backbone=Backbone(id=card.backbone.id, fingerprint=card.backbone.fingerprint),
            file=file,
            sha256=hashlib.sha256(blob).hexdigest(),
            size=len(blob),
            licence=card.licence,
            languages=card.languages,
            description=card.description,
            **fields,
        )
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()
        )
        raise UsageError(f"{where}: it cannot be published as it is: {wrong}") from None


def matching(entries: Iterable[Entry], words: Sequence[str], **fields: str | None) -> list[Entry]:
    """Return the newest version of each adapter whose texts contain all words and whose fields have these values."""
    newest: dict[str, Entry] = {}
    for entry in entries:
        if entry.name not in newest or newest[entry.name].order < entry.order:
            newest[entry.name] = entry
    return [
        entry
        for entry in newest.values()
        if all(word.lower() in _text(entry) for word in words) and all(_has(entry, *item) for item in fields.items())
    ]


def skeleton(name: str) -> str:
    """Return the skeleton of a name: readers confuse names with the same skeleton, such as ``ner-1`` and ``ner_l``."""
    plain = unicodedata.normalize("NFKC", name).lower().replace("rn", "m").replace("vv", "w").translate(LOOKALIKES)
    return re.sub("-+", "-", plain)


def lookalike(name: str, names: Iterable[str]) -> str | None:
    """Return one of ``names`` that readers could confuse with this name, or None."""
    return next((candidate for candidate in names if candidate != name and skeleton(candidate) == skeleton(name)), None)


def unknown(name: str, names: Iterable[str]) -> UnknownNameError:
    """Return the error for a name that no source has; ``names`` are the published names."""
    return UnknownNameError("adapter", name, set(names), "See adapt search.")


def _text(entry: Entry) -> str:
    texts = [entry.name, entry.task, *entry.methods, entry.backbone.id, *entry.languages, entry.description]
    return " ".join([*texts, entry.publisher, *entry.metrics]).lower()


def _has(entry: Entry, field: str, value: str | None) -> bool:
    if value is None:
        return True
    values = {"task": [entry.task], "method": entry.methods, "language": entry.languages}
    values |= {"backbone": [entry.backbone.id, entry.backbone.fingerprint], "licence": [entry.licence]}
    return value in values[field]
