"""``adapt search``: search published adapters by words and fields."""

import click

from adaptdock.cli.common.output import show_json, show_table
from adaptdock.cli.common.registry_options import COLUMNS, SOURCE, ask, row, say_notes
from adaptdock.hub.registry.index import matching


@click.command("search")
@click.argument("words", nargs=-1)
@click.option("--task", help="Task of the adapter.")
@click.option("--method", help="Method of the adapter.")
@click.option("--backbone", help="Id or fingerprint of the backbone.")
@click.option("--language", help="Language of the adapter.")
@click.option("--licence", help="Licence of the adapter.")
@SOURCE
@click.option("--json", "as_json", is_flag=True, help="Print the complete entries as JSON.")
def command(
    words: tuple[str, ...],
    task: str | None,
    method: str | None,
    backbone: str | None,
    language: str | None,
    licence: str | None,
    sources: tuple[str, ...],
    as_json: bool,
) -> None:
    """Search published adapters whose entries contain all WORDS.

    Only the newest version of an adapter is shown, from the first source that has the adapter. Withdrawn versions are
    not shown.
    """
    asked = ask(sources)
    entries = [
        entry for _, index in reversed(asked.indices()) for entry in index.adapters if not index.withdrawn(entry)
    ]
    fields = {"task": task, "method": method, "backbone": backbone, "language": language, "licence": licence}
    matches = sorted(matching(entries, words, **fields), key=lambda entry: entry.name)
    say_notes(asked)
    if as_json:
        show_json([entry.model_dump(mode="json", exclude_none=True) for entry in matches])
    else:
        show_table(COLUMNS, [row(entry) for entry in matches])
