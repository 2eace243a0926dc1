"""``adapt trust``: whose signatures count on this machine, and what was revoked."""

import click

from adaptdock.cli.common.output import note, show_json, show_table
from adaptdock.errors import UsageError
from adaptdock.hub.registry.index import Revocation
from adaptdock.hub.registry.seen import forget
from adaptdock.hub.registry.sources import open_source
from adaptdock.hub.registry.trust import distrust, revoke, trust, trusted


@click.group("trust")
def command() -> None:
    """Say whose signatures count on this machine."""


@command.command("add")
@click.argument("publisher")
@click.argument("key")
def add(publisher: str, key: str) -> None:
    """Trust a PUBLISHER's public KEY: from now on what is of him has to be signed with a key of his."""
    trust(publisher, key)
    note(f"{publisher} is trusted with {key}: an adapter of {publisher} must now be signed with a trusted key")


@command.command("remove")
@click.argument("publisher")
@click.argument("key", required=False)
def remove(publisher: str, key: str | None) -> None:
    """Trust a PUBLISHER, or one KEY of his, no longer."""
    distrust(publisher, key)
    note(f"{publisher} is not trusted any more{f' with {key}' if key else ''}")


@command.command("revoke")
@click.option("--key", default="", help="A public key.")
@click.option("--sha256", default="", help="The hash of an adapter file.")
@click.option("--reason", required=True, help="Why; it stands in the refusal.")
def revoke_one(key: str, sha256: str, reason: str) -> None:
    """Refuse a key or a file from now on, whoever publishes it."""
    if bool(key) == bool(sha256):
        raise UsageError("give --key or --sha256")
    revoke(Revocation(key=key, sha256=sha256, reason=reason))
    note(f"{key or f'the file with sha256 {sha256}'} is revoked: {reason}")


@command.command("forget")
@click.argument("source")
def forget_source(source: str) -> None:
    """Take an older index of a SOURCE again, whose publisher has removed entries or revocations on purpose."""
    identity = open_source(source).identity
    forget(identity)
    note(f"what {identity} has published so far is forgotten: the next index from there is taken as it is")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """List trusted publishers with their keys, and what was revoked."""
    known = trusted()
    if as_json:
        show_json(known.model_dump(mode="json"))
        return
    rows = [[publisher, key, "trusted"] for publisher, keys in known.publishers.items() for key in keys]
    rows += [["", one.key or one.sha256, f"revoked: {one.reason}"] for one in known.revoked]
    show_table(("publisher", "key or sha256", "state"), rows)
