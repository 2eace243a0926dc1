"""``adapt remove``: remove installed adapters from this machine."""

import click

from adaptdock.cli.common.output import note
from adaptdock.errors import UsageError
from adaptdock.hub.registry import installed, store
from adaptdock.hub.registry.included import included_entry


@click.command("remove")
@click.argument("names", nargs=-1, required=True)
def command(names: tuple[str, ...]) -> None:
    """Remove installed adapters. pip removes adapters of a Python package."""
    records = [_record(name) for name in names]
    for record in records:
        store.remove(record.entry.name)
        note(f"{record.entry.label} is removed")


def _record(name: str) -> store.Record:
    """Return the record of an installed adapter; raise :class:`UsageError` for an adapter of a Python package."""
    record = store.recorded(name)
    if record is not None:
        return record
    entry = included_entry(name)
    if entry is not None:
        raise UsageError(
            f"{name!r} comes with the package adaptdock, so it is not installed by itself and stays. To refuse its use "
            f"on this machine: adapt trust revoke --sha256 {entry.sha256} --reason TEXT"
        )
    packaged = next((adapter for adapter in installed.installed() if adapter.name == name), None)
    if packaged is None:
        return store.find(name)  # raises the error with the nearest names
    raise UsageError(f"{name!r} comes with the package {packaged.source}: pip uninstall {packaged.distribution}")
