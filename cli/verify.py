"""``adapt verify``: check that installed adapters are unchanged."""

import click

from adaptdock.cli.common.output import show_json, show_table
from adaptdock.hub.registry.store import find, installed, verify


@click.command("verify")
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(names: tuple[str, ...], as_json: bool) -> int:
    """Check hash, signature and revocations of installed adapters, all or the given NAMES.

    The exit status is 1 if an adapter has changed or is no longer trusted.
    """
    records = [find(name) for name in names] or installed()
    problems = {record.entry.label: verify(record) for record in records}
    if as_json:
        show_json([{"adapter": label, "problem": problem} for label, problem in problems.items()])
    else:
        show_table(("adapter", "state"), [[label, problem or "as installed"] for label, problem in problems.items()])
    return int(any(problems.values()))
