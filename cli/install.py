"""``adapt install``: published adapters, verified and kept on this machine."""

from pathlib import Path

import click

from adaptdock.cli.common.output import note, say, show_json
from adaptdock.cli.common.registry_options import SOURCE, ask, named, rule_options, rules, say_notes
from adaptdock.errors import UsageError
from adaptdock.hub.registry.store import Record, install, install_locked, write_lock


@click.command("install")
@click.argument("names", nargs=-1, metavar="NAME[@VERSION]...")
@SOURCE
@click.option(
    "--locked", type=click.Path(path_type=Path), metavar="FILE", help="Install exactly what a lock file says."
)
@click.option(
    "--lock", type=click.Path(path_type=Path), metavar="FILE", help="Write all that is installed to a lock file."
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
    """Install published adapters, which can then be given by name where a file is expected.

    The file has to have the size and the sha256 of its entry, and say of itself what the entry says. Signatures are
    checked against the publishers that adapt trust knows. Nothing that an adapter file holds is run.
    """
    if not names and not locked and not lock:
        raise UsageError("there is nothing to install: give a NAME, or --locked FILE")
    kept = rules(policy, allow_downgrade, allow_lookalike)
    records = install_locked(locked, kept) if locked else []
    asked = ask(sources)
    for text in names:
        records.append(install(asked, *named(text), kept))
    say_notes(asked)
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
