"""``adapt publish``: add an adapter to a registry, sign it, build a wheel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.flags import Flag, SectionedCommand
from adaptdock.cli.common.output import count, note, show_json, show_pairs
from adaptdock.cli.common.registry_options import note_unsigned
from adaptdock.errors import UsageError
from adaptdock.hub.registry.provenance import sign_provenance
from adaptdock.hub.registry.publishing import Published, build_wheel, publish, push

CARD, OUT = "Card", "Where to"


@click.command("publish", cls=SectionedCommand)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--registry",
    cls=Flag,
    section=OUT,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    default=Path("registry"),
    show_default=True,
    help="The registry: registry.json and the published files. Created if missing.",
)
@click.option("--publisher", cls=Flag, section=CARD, required=True, metavar="NAME", help="Publisher of the adapter.")
@click.option("--test-set", cls=Flag, section=CARD, required=True, metavar="NAME", help="Data set of the test metrics.")
@click.option("--name", cls=Flag, section=CARD, metavar="NAME", help="Name in place of the card's.")
@click.option("--version", cls=Flag, section=CARD, metavar="VERSION", help="Version in place of the card's.")
@click.option(
    "--description", cls=Flag, section=CARD, metavar="TEXT", help="Purpose of the adapter, in a sentence or two."
)
@click.option("--licence", cls=Flag, section=CARD, metavar="ID", help="SPDX identifier of the licence.")
@click.option(
    "--language",
    "languages",
    cls=Flag,
    section=CARD,
    multiple=True,
    metavar="CODE",
    help="Language code. May be repeated.",
)
@click.option("--sign", "key", cls=Flag, section=OUT, metavar="KEY", help="Sign with this key of adapt key new.")
@click.option("--wheel", cls=Flag, section=OUT, metavar="NAME", help="Also build a wheel with this name.")
@click.option(
    "--push", "repository", cls=Flag, section=OUT, metavar="OWNER/NAME", help="Also upload it to this hub repository."
)
@click.option("--json", "as_json", cls=Flag, is_flag=True, help="Print JSON.")
def command(
    file: Path,
    registry: Path,
    publisher: str,
    test_set: str,
    key: str | None,
    wheel: str | None,
    repository: str | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Publish the adapter in FILE: add it to a registry, for adapt install to read.

    The card has to be complete: description, licence, languages, and metrics on test data. Serve the registry folder
    unchanged, over https or from a disk. It has the card of each file as Markdown and HTML.
    """
    fields["languages"] = list(fields["languages"])
    published = publish(file, registry, publisher, test_set, key, **fields)
    provenance = _provenance(published, key)
    wheel_file = build_wheel(published, wheel, registry / "wheels") if wheel else None
    address = push(published, repository) if repository else None
    _show(published, registry, {"wheel": wheel_file, "hub": address, "provenance": provenance}, as_json)


def _provenance(published: Published, key: str | None) -> Path | None:
    """Sign the provenance of a signed file, if its card has a record of the training and the library is installed."""
    if key is None:
        return None
    try:
        return sign_provenance(published.file, key)
    except UsageError as error:
        note(f"no provenance was signed: {error}")
        return None


def _show(published: Published, registry: Path, parts: Mapping[str, object], as_json: bool) -> None:
    entry = published.entry
    if as_json:
        places = {"file": str(published.file), "card": str(published.card), "page": str(published.page)}
        extra = {name: str(parts[name]) if parts[name] else None for name in ("wheel", "provenance")}
        show_json({"entry": entry.model_dump(mode="json", exclude_none=True), **places, **extra})
        return
    pairs = {
        "published": f"{entry.label} in {registry}",
        "file": f"{published.file} ({count(entry.size)} bytes)",
        "card": f"{published.card}, {published.page}",
        **parts,
    }
    show_pairs({name: value for name, value in pairs.items() if value})
    note_unsigned(registry)
    if not entry.key:
        note("it is not signed: adapt key new NAME creates a key, --sign NAME signs with it")
