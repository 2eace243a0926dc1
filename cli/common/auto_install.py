"""Adapters used by name before they are installed: installed on first use, with --yes."""

from pathlib import Path

from adaptdock.cli.common.output import note
from adaptdock.cli.common.registry_options import ask, name_and_version, say_notes
from adaptdock.errors import FileError, SourceError, UnknownNameError, UsageError
from adaptdock.hub.registry.installed import locate
from adaptdock.hub.registry.store import Rules, install
from adaptdock.hub.registry.trust import read_policy


def located(source: str, installing: bool) -> Path:
    """Return the path of an adapter by its path or name; a published adapter is installed first.

    Raises :class:`UsageError` with the command if ``installing`` is false, the error of :func:`locate` if no source
    has the adapter, and the errors of :func:`install`.
    """
    try:
        return locate(source)
    except UnknownNameError as missing:
        name, version = name_and_version(source)
        sources = ask(())
        try:
            offer = sources.find(name, version)
        except (UnknownNameError, SourceError, FileError):
            raise missing from None
    entry = offer.entry
    if not installing:
        raise UsageError(
            f"the adapter {source!r} is not installed. {offer.source.name} has {entry.label} of {entry.publisher} "
            f"({entry.size:,} bytes, {entry.licence}): install it with adapt install {entry.name}, or now with --yes"
        )
    record = install(sources, name, version, Rules(read_policy()))
    say_notes(sources)
    note(f"{record.entry.label} is installed from {record.source} ({record.stands})")
    return record.path
