"""``adapt plugin``: create a plugin project, or check a plugin."""

from pathlib import Path

import click

from adaptdock.cli.app import debug_option
from adaptdock.cli.common.output import note, say, show_json, show_table
from adaptdock.errors import UnknownNameError, UsageError
from adaptdock.hub.scaffold.project import PROJECTS, ProjectKind, checked, write_project
from adaptdock.plugins import registry
from adaptdock.plugins.registry import Kind, Plugin

CHECKED: tuple[Kind, ...] = ("method", "task", "backbone", "files")
"""The kinds of plugins that have a contract."""
WORDS = {"passed": "pass", "failed": "FAIL", "left out": "left out"}


@click.group("plugin")
def command() -> None:
    """Create a plugin project, or check a plugin."""


@command.command("new", params=[debug_option()])
@click.argument("kind", metavar=f"[{'|'.join(PROJECTS)}]")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="The new folder. [default: adaptdock-NAME]")
@click.option(
    "--file",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Adapter file for a project of the kind adapters. May be repeated.",
)
def new(kind: str, name: str, folder: Path | None, files: tuple[Path, ...]) -> None:
    """Create a complete, installable project: code, test, package, README, CI.

    A method acts at the ports of a backbone. A task defines data, head, loss and metrics. A backbone loads another
    kind of model. adapters is a package of trained adapter files, without code.
    """
    project = checked(_project_kind(kind), name)
    folder = folder or Path(project.distribution)
    for path in write_project(project, folder, files):
        say(str(folder / path))
    note(f"Next: pip install -e {folder}; adapt plugin check {name}")


@command.command("check", params=[debug_option()])
@click.argument("name")
@click.option("--kind", metavar=f"[{'|'.join(CHECKED)}]", help="Kind of the plugin, if several kinds have its name.")
@click.option("--model", metavar="NAME|PATH", help="Model for a backbone family to load.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(name: str, kind: str | None, model: str | None, as_json: bool) -> int:
    """Check that the installed plugin NAME fulfils its contract; the exit status is 1 if a check fails.

    The checks use tiny random models, download nothing, and take a minute at most.
    """
    plugin = _one(name, kind)
    if model and plugin.kind != "backbone":
        raise UsageError(f"--model is for a backbone family; {name!r} is a {plugin.kind}")
    from adaptdock.engine.conformance import checks

    outcomes = [check.outcome() for check in checks(plugin.kind, name, model)]
    failed = sum(outcome.verdict == "failed" for outcome in outcomes)
    if as_json:
        show_json(
            [{"check": outcome.title, "verdict": outcome.verdict, "reason": outcome.reason} for outcome in outcomes]
        )
    else:
        rows = [[WORDS[outcome.verdict], outcome.title, " ".join(outcome.reason.split())] for outcome in outcomes]
        show_table(("", f"{plugin.kind} {name}, of {plugin.source}", "why"), rows)
    left_out = sum(outcome.verdict == "left out" for outcome in outcomes)
    note(f"{len(outcomes) - failed - left_out} passed, {failed} failed, {left_out} left out")
    return 1 if failed else 0


def _project_kind(text: str) -> ProjectKind:
    for kind in PROJECTS:
        if kind == text:
            return kind
    raise UnknownNameError("kind of project", text, PROJECTS)


def _one(name: str, kind: str | None) -> Plugin:
    """Return the plugin with a name; raise :class:`UsageError` if several kinds have the name and none is given."""
    if kind is not None:
        return registry.find(registry.known_kind(kind), name)
    kinds = [kind for kind in CHECKED if name in registry.names(kind)]
    if not kinds:
        raise UnknownNameError("plugin", name, {known for kind in CHECKED for known in registry.names(kind)})
    if len(kinds) > 1:
        raise UsageError(f"{name!r} is the name of a {' and a '.join(kinds)}: choose with --kind")
    return registry.find(kinds[0], name)
