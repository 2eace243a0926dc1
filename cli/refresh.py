"""``adapt refresh``: the signed state of a registry."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from adaptdock.cli.common.output import note, show_pairs
from adaptdock.cli.yank import REGISTRY
from adaptdock.hub.registry.signed_state import sign_state

SOON = timedelta(days=60)


@click.command("refresh")
@REGISTRY
@click.option("--sign", "keys", multiple=True, required=True, metavar="KEY", help="Key of the state. May be repeated.")
@click.option(
    "--root-key",
    "root_keys",
    multiple=True,
    metavar="KEY",
    help="Write a new root with this key, which signs only roots. May be repeated.",
)
@click.option(
    "--threshold", type=click.IntRange(min=1), default=1, show_default=True, help="Root keys that have to sign a root."
)
@click.option(
    "--days", type=click.FloatRange(min=0.01), default=30.0, show_default=True, help="Validity of the signed state."
)
def command(registry: Path, keys: tuple[str, ...], root_keys: tuple[str, ...], threshold: int, days: float) -> None:
    """Sign the state of your registry, so that nobody can pass an old copy of its index as the newest.

    Run it after each adapt publish, yank and revoke, and before the state expires. The first run needs --root-key; a
    later run with --root-key changes the keys. People trust the root by adapt trust root. The metadata are those of
    The Update Framework.
    """
    state = sign_state(registry, keys, root_keys, threshold, days)
    show_pairs(
        {
            "signed": f"state {state.version} of {registry}, valid until {state.expires:%Y-%m-%d %H:%M} UTC",
            "root": f"{state.root} (version {state.root_version}, valid until {state.root_expires:%Y-%m-%d})",
        }
    )
    if state.root_expires - datetime.now(UTC) < SOON:
        note("the root expires soon: sign a new one with --root-key before that day")
