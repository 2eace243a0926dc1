"""Options of several commands: sources of published adapters, and rules of installation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.output import note
from adaptdock.errors import UsageError
from adaptdock.hub.registry.index import Entry
from adaptdock.hub.registry.signed_state import is_signed
from adaptdock.hub.registry.sources import Sources
from adaptdock.hub.registry.store import Rules
from adaptdock.hub.registry.trust import read_policy
from adaptdock.hub.registry.verified import open_source, usual

COLUMNS = ("name", "version", "task", "method", "backbone", "languages", "licence", "publisher", "kB")

SOURCE = click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="SOURCE",
    help="Folder, registry.json, https address, hf:OWNER/NAME or wheels:FOLDER. May be repeated: the first source with "
    "an adapter is used. [default: $ADAPTDOCK_SOURCES, else the index of the project]",
)


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that :func:`rules` reads."""
    options = (
        click.option("--policy", type=click.Path(path_type=Path), help="Policy file (TOML) instead of this machine's."),
        click.option("--allow-downgrade", is_flag=True, help="Replace an installed version by an older version."),
        click.option("--allow-lookalike", is_flag=True, help="Accept a name similar to the name of another publisher."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def rules(policy: Path | None, allow_downgrade: bool, allow_lookalike: bool) -> Rules:
    """Return the rules of the options."""
    return Rules(read_policy(policy), allow_downgrade, allow_lookalike)


def ask(names: Sequence[str]) -> Sources:
    """Return the sources with these names; by default the configured sources."""
    return Sources([open_source(name) for name in names or usual()])


def note_unsigned(registry: Path) -> None:
    """Say that the signed state of a registry does not cover the change that was just made."""
    if is_signed(registry):
        note(f"the signed state does not cover this change yet: adapt refresh --registry {registry} --sign KEY")


def say_notes(sources: Sources) -> None:
    """Print the notes of the sources, each once."""
    for line in dict.fromkeys(sources.notes):
        note(line)


def name_and_version(text: str) -> tuple[str, str | None]:
    """Return name and version of ``NAME`` or ``NAME@VERSION``; raise :class:`UsageError` otherwise."""
    name, at, version = text.partition("@")
    if not name or (at and not version):
        raise UsageError(f"{text!r}: write NAME or NAME@VERSION")
    return name, version or None


def row(entry: Entry) -> list[Any]:
    """Return the cells of an entry, as in :data:`COLUMNS`."""
    languages, methods = ", ".join(entry.languages), ", ".join(entry.methods)
    head = [entry.name, entry.version, entry.task, methods, entry.backbone.id, languages]
    return [*head, entry.licence, entry.publisher, round(entry.size / 1000)]
