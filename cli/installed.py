"""``adapt list``: installed adapters, from distributions or a registry."""

import click

from adaptdock.cli.common.output import note, show_json, show_table
from adaptdock.hub.registry.installed import installed
from adaptdock.plugins import registry

COLUMNS = ("name", "distribution", "version", "path")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List installed adapters. Other commands accept their names in place of a file.

    Only metadata and file names are read. adapt inspect NAME shows the contents of an adapter.
    """
    rows = [{column: str(getattr(adapter, column)) for column in COLUMNS} for adapter in installed()]
    for plugin in registry.discover("files"):
        state = registry.state(plugin, check=True)
        if not state.usable:
            note(f"set aside: {state.reason}")
    if as_json:
        show_json(rows)
    else:
        show_table(COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
