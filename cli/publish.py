"""``adapt publish``: an adapter added to a registry, signed, and packed as a wheel."""

from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.flags import Flag, SectionedCommand
from adaptdock.cli.common.output import count, note, show_json, show_pairs
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
    help="The registry: registry.json, and the published files beneath it. Made where there is none.",
)
@click.option("--publisher", cls=Flag, section=CARD, required=True, metavar="NAME", help="Who stands for it.")
@click.option(
    "--test-set", cls=Flag, section=CARD, required=True, metavar="NAME", help="The data that its test metrics are of."
)
@click.option("--name", cls=Flag, section=CARD, metavar="NAME", help="Its name, instead of that in its card.")
@click.option("--version", cls=Flag, section=CARD, metavar="VERSION", help="Its version, instead of that in its card.")
@click.option("--description", cls=Flag, section=CARD, metavar="TEXT", help="What it does, in a sentence or two.")
@click.option("--licence", cls=Flag, section=CARD, metavar="ID", help="SPDX identifier of its licence.")
@click.option("--language", "languages", cls=Flag, section=CARD, multiple=True, metavar="CODE", help="May be repeated.")
@click.option("--sign", "key", cls=Flag, section=OUT, metavar="KEY", help="Sign with a key of adapt key new.")
@click.option("--wheel", cls=Flag, section=OUT, metavar="NAME", help="Build a wheel of this name that carries it.")
@click.option("--push", "repository", cls=Flag, section=OUT, metavar="OWNER/NAME", help="Upload it to the hub.")
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
    **given: Any,
) -> None:
    """Publish the adapter in FILE: add it to a registry, from which adapt install takes it.

    Its card has to be complete: description, licence, languages, and metrics on test data. The registry is a folder
    to be served as it is, over https or from a disk. The card lies beside the file as Markdown and as HTML.
    """
    given["languages"] = list(given["languages"])
    published = publish(file, registry, publisher, test_set, key, **given)
    made = build_wheel(published, wheel, registry / "wheels") if wheel else None
    address = push(published, repository) if repository else None
    _show(published, registry, made, address, as_json)


def _show(published: Published, registry: Path, wheel: Path | None, address: str | None, as_json: bool) -> None:
    entry = published.entry
    if as_json:
        places = {"file": str(published.file), "card": str(published.card), "page": str(published.page)}
        show_json({"entry": entry.model_dump(mode="json", exclude_none=True), **places, "wheel": wheel and str(wheel)})
        return
    pairs = {
        "published": f"{entry.label} in {registry}",
        "file": f"{published.file} ({count(entry.size)} bytes)",
        "card": f"{published.card}, {published.page}",
        "wheel": wheel,
        "hub": address,
    }
    show_pairs({name: value for name, value in pairs.items() if value})
    if not entry.key:
        note("it is not signed: adapt key new NAME makes a key, --sign NAME signs with it")
