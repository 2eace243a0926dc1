"""``adapt search``: published adapters, by words and fields."""

import click

from adaptdock.cli.common.output import show_json, show_table
from adaptdock.cli.common.registry_options import COLUMNS, SOURCE, ask, row, say_notes
from adaptdock.hub.registry.index import matching


@click.command("search")
@click.argument("words", nargs=-1)
@click.option("--task", help="Of this task.")
@click.option("--method", help="With this method.")
@click.option("--backbone", help="For this backbone: its id or fingerprint.")
@click.option("--language", help="For this language.")
@click.option("--licence", help="Under this licence.")
@SOURCE
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the whole entries.")
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
    """Search published adapters, all of whose WORDS stand in what is said of them.

    The newest version of each is shown, of the first source that has it, without those that were withdrawn.
    """
    asked = ask(sources)
    entries = [
        entry for _, index in reversed(asked.indices()) for entry in index.adapters if not index.withdrawn(entry)
    ]
    fields = {"task": task, "method": method, "backbone": backbone, "language": language, "licence": licence}
    found = sorted(matching(entries, words, **fields), key=lambda entry: entry.name)
    say_notes(asked)
    if as_json:
        show_json([entry.model_dump(mode="json", exclude_none=True) for entry in found])
    else:
        show_table(COLUMNS, [row(entry) for entry in found])
