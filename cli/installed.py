"""``adapt list``: the adapters that are installed, in distributions or from a registry."""

import click

from adaptdock.cli.common.output import note, show_json, show_table
from adaptdock.hub.registry.installed import installed
from adaptdock.plugins import registry

COLUMNS = ("name", "distribution", "version", "path")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the installed adapters, of distributions and registries: names for where a file is expected.

    Only metadata and the names of files are read. adapt inspect NAME shows what is in one.
    """
    rows = [
        {"name": one.name, "distribution": one.distribution, "version": one.version, "path": str(one.path)}
        for one in installed()
    ]
    for plugin in registry.discover("files"):
        state = registry.state(plugin, check=True)
        if not state.usable:
            note(f"set aside: {state.reason}")
    if as_json:
        show_json(rows)
    else:
        show_table(COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
