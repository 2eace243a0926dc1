"""``adapt remove``: remove installed adapters from this machine."""

import click

from adaptdock.cli.common.output import note
from adaptdock.hub.registry.store import find, remove


@click.command("remove")
@click.argument("names", nargs=-1, required=True)
def command(names: tuple[str, ...]) -> None:
    """Remove installed adapters. pip removes adapters of a Python package."""
    for record in [find(name) for name in names]:
        remove(record.entry.name)
        note(f"{record.entry.label} is removed")
