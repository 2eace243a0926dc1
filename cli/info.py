"""``adapt info``: a published adapter before its installation, with its signature, licence and measurements."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.output import count, say, show_json, show_metrics, show_pairs
from adaptdock.cli.common.registry_options import SOURCE, ask, name_and_version, rule_options, rules, say_notes
from adaptdock.hub.registry.store import Prospect, prospect


@click.command("info")
@click.argument("name", metavar="NAME[@VERSION]")
@SOURCE
@rule_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    name: str,
    sources: tuple[str, ...],
    policy: Path | None,
    allow_downgrade: bool,
    allow_lookalike: bool,
    as_json: bool,
) -> None:
    """Show a published adapter, by default its newest version, and whether adapt install would accept it.

    Only the index is read: no file is fetched or installed.
    """
    asked = ask(sources)
    candidate = prospect(asked, *name_and_version(name), rules(policy, allow_downgrade, allow_lookalike))
    say_notes(asked)
    if as_json:
        entry = candidate.offer.entry.model_dump(mode="json", exclude_none=True)
        state = {"signature": candidate.signature, "refusal": candidate.refusal, "installed": candidate.installed}
        show_json({"entry": entry, "source": candidate.offer.source.name, "versions": candidate.versions, **state})
        return
    show_pairs(_facts(candidate))
    if candidate.offer.entry.metrics:
        say()
        show_metrics(candidate.offer.entry.metrics)


def _facts(candidate: Prospect) -> dict[str, Any]:
    entry = candidate.offer.entry
    facts = {
        "name": f"{entry.name}, version {entry.version}",
        "description": entry.description,
        "task": entry.task,
        "method": ", ".join(entry.methods),
        "backbone": f"{entry.backbone.id} ({entry.backbone.fingerprint})",
        "languages": ", ".join(entry.languages),
        "licence": entry.licence,
        "publisher": entry.publisher,
        "published": entry.published,
        "signature": candidate.signature,
        "signed with": entry.key,
        "file": f"{count(entry.size)} bytes, sha256 {entry.sha256}",
        "needs": ", ".join(entry.needs),
        "source": candidate.offer.source.name,
        "versions": ", ".join(candidate.versions),
        "installed": candidate.installed,
        "adapt install": f"refused: {candidate.refusal}" if candidate.refusal else "would install it",
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}
