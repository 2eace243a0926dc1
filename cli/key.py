"""``adapt key``: the keys that entries are signed with."""

import click

from adaptdock.cli.common.output import say, show_pairs
from adaptdock.hub.registry.trust import key_names, new_key, public_key


@click.group("key")
def command() -> None:
    """Make and show keys (Ed25519) for signing what is published. Private keys stay on this machine."""


@command.command("new")
@click.argument("name")
def new(name: str) -> None:
    """Make a key and print its public part, which others give to adapt trust add."""
    say(new_key(name))


@command.command("show")
@click.argument("name", required=False)
def show(name: str | None) -> None:
    """Print the public part of a key, or of all keys with their names."""
    if name is not None:
        say(public_key(name))
    else:
        show_pairs({known: public_key(known) for known in key_names()})
