"""``adapt trust``: trusted publishers of this machine, and revocations."""

import click

from adaptdock.cli.common.output import note, show_json, show_table
from adaptdock.errors import UsageError
from adaptdock.hub.registry.index import Revocation
from adaptdock.hub.registry.seen import forget
from adaptdock.hub.registry.sources import open_source
from adaptdock.hub.registry.trust import distrust, revoke, trust, trusted


@click.group("trust")
def command() -> None:
    """Choose the publishers that this machine trusts."""


@command.command("add")
@click.argument("publisher")
@click.argument("key")
def add(publisher: str, key: str) -> None:
    """Trust a public KEY of a PUBLISHER. Adapters of the publisher then need a signature by a trusted key."""
    trust(publisher, key)
    note(f"{publisher} is trusted with {key}: adapters of {publisher} now need a signature by a trusted key")


@command.command("remove")
@click.argument("publisher")
@click.argument("key", required=False)
def remove(publisher: str, key: str | None) -> None:
    """Stop trusting a PUBLISHER, or a single KEY of the publisher."""
    distrust(publisher, key)
    note(f"{publisher} is not trusted any more{f' with {key}' if key else ''}")


@command.command("revoke")
@click.option("--key", default="", help="Public key to revoke.")
@click.option("--sha256", default="", help="SHA-256 of an adapter file to revoke.")
@click.option("--reason", required=True, help="Reason, shown when an adapter is refused.")
def revoke_one(key: str, sha256: str, reason: str) -> None:
    """Refuse a key or a file, whoever publishes it."""
    if bool(key) == bool(sha256):
        raise UsageError("give --key or --sha256")
    revoke(Revocation(key=key, sha256=sha256, reason=reason))
    note(f"{key or f'the file with sha256 {sha256}'} is revoked: {reason}")


@command.command("forget")
@click.argument("source")
def forget_source(source: str) -> None:
    """Accept an older index of a SOURCE, whose publisher has removed entries or revocations on purpose."""
    identity = open_source(source).identity
    forget(identity)
    note(f"the entries and revocations of {identity} are forgotten: its next index is accepted")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """List trusted publishers with their keys, and revocations."""
    known = trusted()
    if as_json:
        show_json(known.model_dump(mode="json"))
        return
    rows = [[publisher, key, "trusted"] for publisher, keys in known.publishers.items() for key in keys]
    rows += [["", revocation.key or revocation.sha256, f"revoked: {revocation.reason}"] for revocation in known.revoked]
    show_table(("publisher", "key or sha256", "state"), rows)
