"""``adapt key``: keys that sign registry entries."""

import click

from adaptdock.cli.common.output import say, show_pairs
from adaptdock.hub.registry.trust import key_names, new_key, public_key


@click.group("key")
def command() -> None:
    """Create and show Ed25519 keys for signing published adapters. Private keys stay on this machine."""


@command.command("new")
@click.argument("name")
def new(name: str) -> None:
    """Create a key and print its public part, for others to pass to adapt trust add."""
    say(new_key(name))


@command.command("show")
@click.argument("name", required=False)
def show(name: str | None) -> None:
    """Print the public part of a key, or names and public parts of all keys."""
    if name is not None:
        say(public_key(name))
    else:
        show_pairs({known: public_key(known) for known in key_names()})
