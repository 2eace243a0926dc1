"""``adapt verify``: whether installed adapters are still what was installed."""

import click

from adaptdock.cli.common.output import show_json, show_table
from adaptdock.hub.registry.store import find, installed, verify


@click.command("verify")
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(names: tuple[str, ...], as_json: bool) -> int:
    """Check installed adapters, those named or all: the hash of the file, the signature, and revocations.

    The exit status is 1 where one of them is no longer what was installed, or no longer trusted.
    """
    records = [find(name) for name in names] or installed()
    found = {record.entry.label: verify(record) for record in records}
    if as_json:
        show_json([{"adapter": label, "problem": problem} for label, problem in found.items()])
    else:
        show_table(("adapter", "state"), [[label, problem or "as installed"] for label, problem in found.items()])
    return int(any(found.values()))
