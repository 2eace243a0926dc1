"""``adapt yank``: a published version withdrawn by its publisher."""

from pathlib import Path

import click

from adaptdock.cli.common.output import note
from adaptdock.cli.common.registry_options import named
from adaptdock.errors import UsageError
from adaptdock.hub.registry.withdrawal import yank

REGISTRY = click.option(
    "--registry",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    default=Path("registry"),
    show_default=True,
    help="The registry: the folder of registry.json.",
)
REASON = click.option("--reason", required=True, help="The reason, shown to those who ask for it.")


@click.command("yank")
@click.argument("name", metavar="NAME@VERSION")
@REGISTRY
@REASON
def command(name: str, registry: Path, reason: str) -> None:
    """Withdraw a version from a registry of yours: adapt install refuses it with the reason.

    Without a version, adapt install takes the newest that is not withdrawn. Where the version is installed already it
    stays in use: adapt trust revoke withdraws it there.
    """
    bare, version = named(name)
    if version is None:
        raise UsageError(f"{name!r}: write NAME@VERSION, as only this version is withdrawn")
    entry = yank(registry, bare, version, reason)
    note(f"{entry.label} (sha256 {entry.sha256}) is withdrawn from {registry}: {reason}")
