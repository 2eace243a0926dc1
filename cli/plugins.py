"""``adapt plugins``: registered plugins, their distributions, and their state."""

from typing import Any

import click

from adaptdock.cli.app import COMMANDS
from adaptdock.cli.common.output import show_json, show_table
from adaptdock.plugins import registry
from adaptdock.plugins.registry import GROUPS, Plugin

COLUMNS = ("kind", "name", "group", "distribution", "version", "state")


@click.command("plugins")
@click.option("--check", is_flag=True, help="Import each plugin to test that it works.")
@click.option("--kind", metavar=f"[{'|'.join(GROUPS)}]", help="Show plugins of this kind only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(check: bool, kind: str | None, as_json: bool) -> None:
    """List methods, tasks, backbones and other plugins.

    Without --check nothing is imported: the list comes from the metadata of installed distributions. A plugin is set
    aside if it is broken, or if two distributions register its name. The list shows the reason; other plugins work.
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
    state = registry.state(plugin, check)
    if state.usable:
        return True, "works" if check else "registered"
    return False, " ".join(f"set aside: {state.reason}".split())
