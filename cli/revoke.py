"""``adapt revoke``: withdraw all adapters that a key has signed from a registry."""

from pathlib import Path

import click

from adaptdock.cli.common.output import note
from adaptdock.cli.common.registry_options import note_unsigned
from adaptdock.cli.yank import REASON, REGISTRY
from adaptdock.hub.registry.withdrawal import revoke_key


@click.command("revoke")
@click.argument("key", metavar="PUBLIC-KEY")
@REGISTRY
@REASON
def command(key: str, registry: Path, reason: str) -> None:
    """Withdraw all adapters that a lost or stolen key has signed from your registry.

    adapt install then refuses these adapters with the reason. To revoke the key on this machine: adapt trust revoke.
    """
    entries = revoke_key(registry, key, reason)
    note_unsigned(registry)
    labels = ", ".join(entry.label for entry in entries)
    note(f"withdrawn from {registry}, as signed with {key}: {labels}. The reason: {reason}")
