"""``adapt install``: published adapters, verified and installed."""

from pathlib import Path

import click

from adaptdock.cli.common.output import note, say, show_json
from adaptdock.cli.common.registry_options import SOURCE, ask, name_and_version, rule_options, rules, say_notes
from adaptdock.errors import UsageError
from adaptdock.hub.registry.store import Record, install, install_locked, write_lock


@click.command("install")
@click.argument("names", nargs=-1, metavar="NAME[@VERSION]...")
@SOURCE
@click.option(
    "--locked", type=click.Path(path_type=Path), metavar="FILE", help="Install the exact adapters of a lock file."
)
@click.option(
    "--lock", type=click.Path(path_type=Path), metavar="FILE", help="Write all installed adapters to a lock file."
)
@rule_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    names: tuple[str, ...],
    sources: tuple[str, ...],
    locked: Path | None,
    lock: Path | None,
    policy: Path | None,
    allow_downgrade: bool,
    allow_lookalike: bool,
    as_json: bool,
) -> None:
    """Install published adapters. Other commands then accept their names in place of a file.

    Size, sha256 and card of a file have to agree with its entry. Signatures are checked against the publishers of
    adapt trust. No code of an adapter file is run.
    """
    if not names and not locked and not lock:
        raise UsageError("nothing to install: give a NAME, or --locked FILE")
    installation_rules = rules(policy, allow_downgrade, allow_lookalike)
    records = install_locked(locked, installation_rules) if locked else []
    index_sources = ask(sources)
    for text in names:
        records.append(install(index_sources, *name_and_version(text), installation_rules))
    say_notes(index_sources)
    if lock:
        note(f"{lock}: {len(write_lock(lock).adapters)} adapters")
    show_records(records, as_json)


def show_records(records: list[Record], as_json: bool) -> None:
    """Print what is installed now."""
    if as_json:
        show_json([{**record.model_dump(mode="json"), "path": str(record.path)} for record in records])
        return
    for record in records:
        say(f"{record.entry.label} from {record.source} ({record.stands}): {record.path}")
