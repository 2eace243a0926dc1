"""Tab completion: the script for the start of a shell, and the candidates for each Tab."""

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from adaptdock.errors import AdaptError, UsageError

VARIABLE = "_ADAPT_COMPLETE"
"""The environment variable in which a shell says ``bash_source`` (the script) or ``bash_complete`` (candidates)."""
SHELLS = ("bash", "zsh", "fish")

if TYPE_CHECKING:
    _Base = ShellComplete
else:
    _Base = object


class _Candidates(_Base):
    """Completion that falls back to file names. Errors during typing are silent."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return the candidates for the incomplete word."""
        try:
            candidates = super().get_completions(args, incomplete)
        except (AdaptError, click.ClickException):
            return []
        if candidates or incomplete.startswith("-"):
            return candidates
        return [CompletionItem(incomplete, type="file")]


def complete(app: click.Command, instruction: str) -> int:
    """Print script or candidates; raise :class:`UsageError` for an unknown shell or instruction."""
    shell, _, action = instruction.partition("_")
    base = get_completion_class(shell)
    if base is None or action not in ("source", "complete"):
        known = ", ".join(f"{name}_source" for name in SHELLS)
        raise UsageError(f"{VARIABLE}={instruction} is not known. Instructions that print a completion script: {known}")
    completer: ShellComplete = type("Completer", (_Candidates, base), {})(app, {}, "adapt", VARIABLE)
    click.echo(completer.source() if action == "source" else completer.complete())
    return 0
