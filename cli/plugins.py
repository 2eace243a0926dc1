"""``adapt plugins``: what is registered, by whom, and whether it can be used."""

from typing import Any

import click

from adaptdock.cli.app import COMMANDS
from adaptdock.cli.common.output import show_json, show_table
from adaptdock.plugins import registry
from adaptdock.plugins.registry import GROUPS, Plugin

COLUMNS = ("kind", "name", "group", "distribution", "version", "state")


@click.command("plugins")
@click.option("--check", is_flag=True, help="Import each plugin, to find out whether it works.")
@click.option("--kind", metavar=f"[{'|'.join(GROUPS)}]", help="Show plugins of this kind only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(check: bool, kind: str | None, as_json: bool) -> None:
    """List methods, tasks, backbones and other plugins.

    Nothing is imported without --check: what is shown comes from the metadata of the installed
    distributions. A plugin that is broken, or whose name another distribution has taken too, is
    shown with the reason; it breaks nothing else.
    """
    plugins = registry.discover(registry.known_kind(kind) if kind else None)
    rows = [_row(plugin, check) for plugin in plugins]
    if as_json:
        show_json(rows)
    else:
        show_table(COLUMNS, [[row[column] for column in COLUMNS] for row in rows])


def _row(plugin: Plugin, check: bool) -> dict[str, Any]:
    usable, state = _state(plugin, check)
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "group": GROUPS[plugin.kind],
        "distribution": plugin.distribution,
        "version": plugin.version,
        "target": plugin.target,
        "usable": usable,
        "state": state,
    }


def _state(plugin: Plugin, check: bool) -> tuple[bool, str]:
    if plugin.kind == "command" and plugin.name in COMMANDS:
        return False, f"set aside: adapt has a command {plugin.name!r} of its own"
    found = registry.state(plugin, check)
    if found.usable:
        return True, "works" if check else "registered"
    return False, " ".join(f"set aside: {found.reason}".split())
