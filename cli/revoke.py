"""``adapt revoke``: a key whose signatures its publisher takes back."""

from pathlib import Path

import click

from adaptdock.cli.common.output import note
from adaptdock.cli.yank import REASON, REGISTRY
from adaptdock.hub.registry.withdrawal import revoke_key


@click.command("revoke")
@click.argument("key", metavar="PUBLIC-KEY")
@REGISTRY
@REASON
def command(key: str, registry: Path, reason: str) -> None:
    """Withdraw from a registry of yours all that a key has signed, because the key was lost or stolen.

    adapt install refuses it with the reason. To trust the key no longer on this machine: adapt trust revoke.
    """
    entries = revoke_key(registry, key, reason)
    note(f"{', '.join(entry.label for entry in entries)}: all signed with {key} is withdrawn from {registry}: {reason}")
