"""Adapters that are used by name before they are installed: installed on first use, if a person says so."""

from pathlib import Path

from adaptdock.cli.common.output import note
from adaptdock.cli.common.registry_options import ask, named, say_notes
from adaptdock.errors import FileError, SourceError, UnknownNameError, UsageError
from adaptdock.hub.registry.installed import locate
from adaptdock.hub.registry.store import Rules, install
from adaptdock.hub.registry.trust import read_policy


def located(given: str, installing: bool) -> Path:
    """Return the path of an adapter that is given by its path or name; one that is published only is installed.

    Raises :class:`UsageError` with the way to it where ``installing`` is false, what :func:`locate` raises where no
    source has it, and what :func:`install` raises.
    """
    try:
        return locate(given)
    except UnknownNameError as missing:
        name, version = named(given)
        sources = ask(())
        try:
            found = sources.find(name, version)
        except (UnknownNameError, SourceError, FileError):
            raise missing from None
    entry = found.entry
    if not installing:
        raise UsageError(
            f"the adapter {given!r} is not installed. {found.source.name} has {entry.label} of {entry.publisher} "
            f"({entry.size:,} bytes, {entry.licence}): adapt install {entry.name} installs it, and --yes now"
        )
    record = install(sources, name, version, Rules(read_policy()))
    say_notes(sources)
    note(f"{record.entry.label} is installed from {record.source} ({record.stands})")
    return record.path
