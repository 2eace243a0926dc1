"""``adapt trust``: trusted publishers of this machine, and revocations."""

from pathlib import Path

import click

from adaptdock.cli.common.output import note, show_json, show_table
from adaptdock.errors import UsageError
from adaptdock.hub.registry.index import Revocation
from adaptdock.hub.registry.seen import forget
from adaptdock.hub.registry.trust import distrust, revoke, trust, trusted
from adaptdock.hub.registry.verified import distrust_root, named, rooted, trust_root


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
    identity = named(source).identity
    forget(identity)
    note(f"the entries and revocations of {identity} are forgotten: its next index is accepted")


@command.command("root")
@click.argument("source")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--remove", "removed", is_flag=True, help="Stop: use the source without its signed state again.")
def root(source: str, file: Path | None, removed: bool) -> None:
    """Trust a root (FILE) of a SOURCE: its index then has to be the newest that the keys of the root have signed.

    The publisher writes the file by adapt refresh (metadata/1.root.json). Get it from the publisher by another way than
    from the source. Later roots follow by themselves.
    """
    if removed == (file is not None):
        raise UsageError("give the FILE of a root, or --remove")
    if file is None:
        distrust_root(source)
        note(f"{source} is used without its signed state")
    else:
        version = trust_root(source, file)
        note(f"root {version} of {source} is trusted: its index now has to be signed, and not expired")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """List trusted publishers with their keys, sources with a trusted root, and revocations."""
    known, sources = trusted(), rooted()
    if as_json:
        show_json({**known.model_dump(mode="json"), "roots": sources})
        return
    rows = [[publisher, key, "trusted"] for publisher, keys in known.publishers.items() for key in keys]
    rows += [["", source, "trusted root"] for source in sources]
    rows += [["", revocation.key or revocation.sha256, f"revoked: {revocation.reason}"] for revocation in known.revoked]
    show_table(("publisher", "key, sha256 or source", "state"), rows)
