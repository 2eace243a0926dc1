"""Let the API pages of the site show docstrings as Markdown, and the names that a module re-exports.

A griffe extension, named in mkdocs.yml: griffe reads the code and does not run it.
"""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?([^`]+)`")
"""A reference to a name, as Sphinx writes it."""
GRID = re.compile(r"^(=+ +=+\n.+?\n=+ +=+)$", flags=re.MULTILINE | re.DOTALL)
"""A table, as reStructuredText writes it."""
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*(?:\n\n>>> .*(?:\n.+)*)*", flags=re.MULTILINE)
"""Statements with their results, as a Python session shows them; Markdown would take them as quotations."""


class ApiDocstrings(griffe.Extension):
    """Rewrites docstrings, and takes ``import X as X`` as a part of a module's interface."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", GRID.sub(_as_markdown, text))

    def on_module(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        """Export what a module imports under its own name, and what it defines."""
        aliases = [name for name, member in mod.members.items() if member.is_alias and _is_reexport(name, member)]
        if aliases and mod.exports is None:
            own = [name for name, member in mod.members.items() if not member.is_alias and not member.is_module]
            mod.exports = [*aliases, *(name for name in own if not name.startswith("_"))]


def _as_markdown(grid: re.Match[str]) -> str:
    """Return a table of two columns as Markdown has it; a line without a first cell continues the one above."""
    border, *lines = grid[1].splitlines()[:-1]
    start = border.rindex(" ") + 1
    rows: list[list[str]] = []
    for line in lines:
        first, second = line[:start].strip(), line[start:].strip()
        if first:
            rows.append([first, second])
        else:
            rows[-1][1] += f" {second}"
    return "\n".join(["| | |", "|---|---|", *(f"| {first} | {second} |" for first, second in rows)])


def _is_reexport(name: str, member: griffe.Object | griffe.Alias) -> bool:
    """Return whether the code says ``import X as X``, which type checkers take as a re-export."""
    source = "\n".join(member.parent.lines) if member.parent else ""  # type: ignore[union-attr]
    return f"import {name} as {name}" in source
