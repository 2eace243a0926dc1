"""``adapt push``: send an adapter file to a serving process."""

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptdock.cli.common.output import note, say, show_json
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import read_header
from adaptdock.hub.registry.admission import admit
from adaptdock.hub.registry.installed import locate
from adaptdock.plugins.regular import read_regular

if TYPE_CHECKING:
    from adaptdock.hub.artefact.card import Card
    from adaptdock.serving.client.client import Client
    from adaptdock.serving.schemas import AdapterDetail

SUFFIX = ".safetensors"


@click.command("push")
@click.argument("source", metavar="FILE")
@click.option("--to", "url", required=True, metavar="URL", help="Address of the serving process.")
@click.option("--name", help="Name in the serving process. [default: name of FILE]")
@click.option("--activate/--no-activate", default=True, help="Serve the new version at once, or only as NAME@VERSION.")
@click.option(
    "--replacing",
    type=click.IntRange(min=1),
    metavar="VERSION",
    help="Send only if this version answers now, and nobody changes the adapter meanwhile.",
)
@click.option("--yes", is_flag=True, help="Do not ask where clients will notice the change.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="SECONDS"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    source: str,
    url: str,
    name: str | None,
    activate: bool,
    replacing: int | None,
    yes: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Send an adapter to a serving process, as a new version of the adapter NAME.

    FILE is a path, or the name of an installed adapter (adapt list).

    The process verifies the file before any change. Another task or other labels than those of the answering version
    are named before the file is sent; on a terminal the command then asks whether to send it. An access token with the
    scope admin is read from the variable ADAPTDOCK_TOKEN.
    """
    from adaptdock.serving.client.client import Client

    file = locate(source)
    card = read_header(file).card  # refuses a file that is not an adapter before it is sent
    name = name or Path(source).name.removesuffix(SUFFIX)
    content = read_regular(file)
    admit(file, content)
    with Client(url, timeout=timeout) as client:
        before = _answering(client, name)
        match = None if replacing is None else _etag(before, name, replacing)
        if before is not None and activate:
            _confirm(before, card, yes)
        client.push(name, content, activate, match)
        served = client.adapter(name)
    digest = hashlib.sha256(content).hexdigest()
    sent = next((version.version for version in served.versions if version.sha256 == digest), None)
    if as_json:
        show_json({"adapter": name, "version": sent, "answers": served.version})
    elif sent == served.version:
        say(f"{name}: version {sent} answers")
    else:
        say(f"{name}: version {sent} is kept, version {served.version} answers")


def _answering(client: "Client", name: str) -> "AdapterDetail | None":
    """Return the adapter as it is served now, or None for a new name."""
    from adaptdock.serving.client.client import RequestError

    try:
        return client.adapter(name)
    except RequestError as error:
        if error.status != 404:
            raise
        return None


def _etag(served: "AdapterDetail | None", name: str, replacing: int) -> str:
    if served is None:
        raise UsageError(f"{name!r} is not served, so version {replacing} can't be replaced: leave --replacing out")
    if served.version != replacing:
        raise UsageError(
            f"version {served.version} of {name!r} answers, not version {replacing}: someone has changed it. "
            f"Nothing was sent. If the new version is still right, repeat with --replacing {served.version}"
        )
    return served.etag


def _confirm(served: "AdapterDetail", card: "Card", yes: bool) -> None:
    """Name what clients will notice; on a terminal, ask whether to send the file."""
    from adaptdock.serving.answer_changes import answer_changes

    sentences = answer_changes(served.card, card.model_dump(mode="json"))
    for sentence in sentences:
        note(f"Warning: {served.name}: {sentence}.")
    if sentences and not yes and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm("Send it?", abort=True, err=True)
