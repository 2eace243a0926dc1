"""``adapt update``: installed adapters brought to their newest version."""

from pathlib import Path

import click

from adaptdock.cli.common.output import note
from adaptdock.cli.common.registry_options import SOURCE, ask, rule_options, rules, say_notes
from adaptdock.cli.install import show_records
from adaptdock.hub.registry.store import find, install, installed


@click.command("update")
@click.argument("names", nargs=-1)
@SOURCE
@rule_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    names: tuple[str, ...],
    sources: tuple[str, ...],
    policy: Path | None,
    allow_downgrade: bool,
    allow_lookalike: bool,
    as_json: bool,
) -> None:
    """Bring installed adapters, those named or all, to the newest version of the source that each came from.

    --source names other sources. What is the newest already stays as it is.
    """
    kept, changed = rules(policy, allow_downgrade, allow_lookalike), []
    for record in [find(name) for name in names] or installed():
        asked = ask(sources or (record.source,))
        made = install(asked, record.entry.name, None, kept)
        say_notes(asked)
        if made != record:
            note(f"{record.entry.label} is now {made.entry.version}")
            changed.append(made)
    show_records(changed, as_json)
