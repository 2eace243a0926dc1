"""``adapt plugin``: a plugin project written, or a plugin checked."""

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
    """Write a plugin project, or check a plugin."""


@command.command("new", params=[debug_option()])
@click.argument("kind", metavar=f"[{'|'.join(PROJECTS)}]")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="The new folder; adaptdock-NAME unless given.")
@click.option(
    "--file",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="An adapter file that an adapters project shall carry. May be repeated.",
)
def new(kind: str, name: str, folder: Path | None, files: tuple[Path, ...]) -> None:
    """Write a project that can be installed and works: code, test, package, README, CI.

    A method acts at the ports of a backbone, a task says what an adapter is for, a backbone loads models of
    another kind; adapters is a package of trained adapter files, without code.
    """
    project = checked(_project_kind(kind), name)
    folder = folder or Path(project.distribution)
    for path in write_project(project, folder, files):
        say(str(folder / path))
    note(f"Next: pip install -e {folder}; adapt plugin check {name}")


@command.command("check", params=[debug_option()])
@click.argument("name")
@click.option("--kind", metavar=f"[{'|'.join(CHECKED)}]", help="Where several kinds have a plugin of that name.")
@click.option("--model", metavar="NAME|PATH", help="What a backbone family shall load.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(name: str, kind: str | None, model: str | None, as_json: bool) -> int:
    """Check that the installed plugin NAME keeps to its contract; the exit status is 1 if not.

    It is tried on tiny random models: nothing is downloaded, and it takes a minute at most.
    """
    plugin = _one(name, kind)
    if model and plugin.kind != "backbone":
        raise UsageError(f"--model is for a backbone family; {name!r} is a {plugin.kind}")
    from adaptdock.engine.conformance import checks

    outcomes = [one.outcome() for one in checks(plugin.kind, name, model)]
    failed = sum(outcome.verdict == "failed" for outcome in outcomes)
    if as_json:
        show_json([{"check": one.title, "verdict": one.verdict, "reason": one.reason} for one in outcomes])
    else:
        rows = [[WORDS[one.verdict], one.title, " ".join(one.reason.split())] for one in outcomes]
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
    """Return the plugin of that name; a name that plugins of several kinds have needs its kind."""
    if kind is not None:
        return registry.find(registry.known_kind(kind), name)
    kinds = [kind for kind in CHECKED if name in registry.names(kind)]
    if not kinds:
        raise UnknownNameError("plugin", name, {known for kind in CHECKED for known in registry.names(kind)})
    if len(kinds) > 1:
        raise UsageError(f"there is a {' and a '.join(kinds)} of the name {name!r}: say which by --kind")
    return registry.find(kinds[0], name)
