"""Write docs/commands-help.md: the --help of every command, and the options of every method and task."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from adaptdock.cli.app import app
from adaptdock.plugins import registry

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands-help.md"
WIDTH = 88
"""Columns that a page of the site shows without scrolling."""
HEAD = """# All options of all commands

`make reference` writes this page from the program: it is the `--help` of each command.
[Commands](commands.md) explains what they do, with examples.
"""


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    with app.make_context("adapt", [], resilient_parsing=True, terminal_width=WIDTH) as context:
        parts.append(_block("##", "adapt", app.get_help(context)))
        for name in app.list_commands(context):
            for title, help_text in _helps(app, context, name):
                parts.append(_block("##" if title.count(" ") == 1 else "###", title, help_text))
        parts.append(_several_tasks(context))
        parts += _plugin_options(context, "method", "Options of the methods")
        parts += _plugin_options(context, "task", "Options of the tasks")
    return "\n".join(parts)


def _helps(group: click.Group, context: click.Context, name: str) -> Iterator[tuple[str, str]]:
    """Yield the names of a command and of its sub-commands, each with its help."""
    command = group.get_command(context, name)
    assert command is not None
    with command.make_context(name, [], context, resilient_parsing=True) as inner:
        yield inner.command_path, inner.command.get_help(inner)
        if isinstance(command, click.Group):
            for part in command.list_commands(inner):
                yield from _helps(command, inner, part)


def _several_tasks(context: click.Context) -> str:
    """Return the help of ``adapt train --tasks FILE``, which depends on the tasks in the file."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tasks.yaml"
        file.write_text("".join(f"{name}: {{}}\n" for name in registry.names("task")[:2]), encoding="utf-8")
        help_text = _train_help(context, ["--tasks", str(file)])
    return _block("##", "adapt train --tasks FILE", help_text)


def _train_help(context: click.Context, arguments: list[str]) -> str:
    train = app.get_command(context, "train")
    assert train is not None
    with train.make_context("train", arguments, context, resilient_parsing=True) as inner:
        return inner.command.get_help(inner)


def _plugin_options(context: click.Context, kind: registry.Kind, title: str) -> list[str]:
    """Return what ``adapt train --method NAME --help`` shows of the method, or the same of a task."""
    parts = [f"## {title}\n\nGiven to `adapt train --{kind} NAME`.\n"]
    for name in registry.names(kind):
        sections = _train_help(context, [f"--{kind}", name]).split("\n\n")
        section = next((text for text in sections if text.startswith(f"{kind.capitalize()} {name}:")), None)
        if section is not None:
            parts.append(_block("###", f"{kind.capitalize()} {name}", section.partition("\n")[2]))
        else:
            parts.append(f"### {kind.capitalize()} {name}\n\nNo options.\n")
    return parts


def _block(level: str, title: str, text: str) -> str:
    return f"{level} {title}\n\n```text\n{text.rstrip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
