"""``adapt yank``: a published version withdrawn by its publisher."""

from pathlib import Path

import click

from adaptdock.cli.common.output import note
from adaptdock.cli.common.registry_options import name_and_version, note_unsigned
from adaptdock.errors import UsageError
from adaptdock.hub.registry.withdrawal import yank

REGISTRY = click.option(
    "--registry",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    default=Path("registry"),
    show_default=True,
    help="Folder of registry.json.",
)
REASON = click.option("--reason", required=True, help="Reason, shown when an adapter is refused.")


@click.command("yank")
@click.argument("name", metavar="NAME@VERSION")
@REGISTRY
@REASON
def command(name: str, registry: Path, reason: str) -> None:
    """Withdraw a version from your registry: adapt install then refuses it with the reason.

    Without a version, adapt install takes the newest version that is not withdrawn. Installed copies stay in use until
    adapt trust revoke is run on their machines.
    """
    bare, version = name_and_version(name)
    if version is None:
        raise UsageError(f"{name!r}: write NAME@VERSION, as one version is withdrawn at a time")
    entry = yank(registry, bare, version, reason)
    note_unsigned(registry)
    note(f"{entry.label} (sha256 {entry.sha256}) is withdrawn from {registry}: {reason}")
