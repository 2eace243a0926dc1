"""``adapt update``: update installed adapters to their newest version."""

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
    """Update installed adapters, all or the given NAMES, to the newest version of their source.

    --source names other sources. Adapters at the newest version are unchanged.
    """
    installation_rules, changed = rules(policy, allow_downgrade, allow_lookalike), []
    for record in [find(name) for name in names] or installed():
        index_sources = ask(sources or (record.source,))
        installed_record = install(index_sources, record.entry.name, None, installation_rules)
        say_notes(index_sources)
        if installed_record != record:
            note(f"{record.entry.label} is now {installed_record.entry.version}")
            changed.append(installed_record)
    show_records(changed, as_json)
