"""``adapt remove``: installed adapters taken off this machine."""

import click

from adaptdock.cli.common.output import note
from adaptdock.hub.registry.store import find, remove


@click.command("remove")
@click.argument("names", nargs=-1, required=True)
def command(names: tuple[str, ...]) -> None:
    """Remove installed adapters; what came in a Python package is removed by pip."""
    for record in [find(name) for name in names]:
        remove(record.entry.name)
        note(f"{record.entry.label} is removed")
