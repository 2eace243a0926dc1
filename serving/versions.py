"""Versions: a version of an adapter, a served adapter with its versions, and the versions selected for an input."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adaptdock.engine.core.assembly import Assembly
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.card import Card

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MOST_PARTS = 8
"""Adapters of a stack: each costs about as much as the backbone's own pass again."""
VERSION = re.compile(r"(?P<name>[^@]+)@(?P<number>[1-9][0-9]{0,8})")


@dataclass(eq=False)
class Version:
    """One version of an adapter; ``users`` counts its in-flight inputs."""

    name: str
    number: int
    sha256: str
    path: Path
    card: Card
    assembly: Assembly
    users: int = 0
    leaving: bool = False

    @property
    def key(self) -> str:
        """The version's name in the dock, such as ``ner@2``."""
        return f"{self.name}@{self.number}"


@dataclass(eq=False)
class Served:
    """An adapter: its versions, the share of each (``split``), and the versions before."""

    name: str
    versions: dict[int, Version] = field(default_factory=dict)
    split: dict[int, float] = field(default_factory=dict)
    mirror: int | None = None
    earlier: list[int] = field(default_factory=list)
    """Versions that answered alone before, the latest last."""
    pinned: bool = False
    next_number: int = 1
    seen: str = ""
    """Hash of the file last seen in the folder; an unloaded adapter comes back when the hash changes."""

    def record(self) -> dict[str, Any]:
        """Return the state for a restart, as JSON."""
        return {
            "versions": {str(number): version.sha256 for number, version in self.versions.items()},
            "split": {str(number): weight for number, weight in self.split.items()},
            "mirror": self.mirror,
            "earlier": self.earlier,
            "pinned": self.pinned,
            "next_number": self.next_number,
            "seen": self.seen,
        }

    def public_record(self) -> dict[str, Any]:
        """Return the part of :meth:`record` that operators change."""
        return {key: value for key, value in self.record().items() if key != "seen"}

    def copy(self) -> "Served":
        """Return a copy that can be changed without effect on this one; the versions are the same."""
        return replace(self, versions=dict(self.versions), split=dict(self.split), earlier=list(self.earlier))

    @property
    def current(self) -> Version:
        """The version that answers; of several, the version with the largest weight."""
        return self.versions[max(self.split, key=lambda number: self.split[number])]


@dataclass(frozen=True)
class Selection:
    """The versions for one input, from the lowest of a stack to the version that answers."""

    name: str
    parts: tuple[Version, ...]
    mirrored: tuple[Version, ...] = ()
    """The version that gets the input as shadow traffic; its answer is compared and discarded."""


def checked_name(name: str) -> str:
    """Return a valid adapter name unchanged; raise :class:`UsageError` for any other."""
    if NAME.fullmatch(name) is None:
        raise UsageError(
            f"the name {name[:150]!r} cannot be used: give 1 to 128 letters, digits, dots, dashes and underscores, "
            f"of which the first is a letter or a digit"
        )
    return name


def parts_of(asked: str) -> list[str]:
    """Return the names in a stack ``lower+upper``; raise :class:`UsageError` for too many or repeated names."""
    parts = asked.split("+")
    if len(parts) > MOST_PARTS:
        raise UsageError(f"a stack has at most {MOST_PARTS} adapters; {asked[:60]!r}... has {len(parts)}")
    double = next((part for number, part in enumerate(parts) if part in parts[:number]), None)
    if double is not None:
        raise UsageError(f"the stack {asked[:150]!r} has the adapter {double!r} twice: each acts once")
    return parts
