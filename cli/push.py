"""``adapt push``: send an adapter file to a serving process."""

import hashlib
from pathlib import Path

import click

from adaptdock.cli.common.output import say, show_json
from adaptdock.hub.artefact.file import read_header
from adaptdock.hub.registry.admission import admit
from adaptdock.hub.registry.installed import locate
from adaptdock.plugins.regular import read_regular

SUFFIX = ".safetensors"


@click.command("push")
@click.argument("source", metavar="FILE")
@click.option("--to", "url", required=True, metavar="URL", help="Address of the serving process.")
@click.option("--name", help="Name in the serving process. [default: name of FILE]")
@click.option("--activate/--no-activate", default=True, help="Serve the new version at once, or only as NAME@VERSION.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="SECONDS"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(source: str, url: str, name: str | None, activate: bool, timeout: float, as_json: bool) -> None:
    """Send an adapter to a serving process, as a new version of the adapter NAME.

    FILE is a path, or the name of an installed adapter (adapt list).

    The process verifies the file before any change. An access token with the scope admin is read from the variable
    ADAPTDOCK_TOKEN.
    """
    from adaptdock.serving.client.client import Client

    file = locate(source)
    read_header(file)  # refuse a file that is not an adapter before sending it
    name = name or Path(source).name.removesuffix(SUFFIX)
    content = read_regular(file)
    admit(file, content)
    with Client(url, timeout=timeout) as client:
        client.push(name, content, activate)
        served = client.adapter(name)
    digest = hashlib.sha256(content).hexdigest()
    sent = next((version.version for version in served.versions if version.sha256 == digest), None)
    if as_json:
        show_json({"adapter": name, "version": sent, "answers": served.version})
    elif sent == served.version:
        say(f"{name}: version {sent} answers")
    else:
        say(f"{name}: version {sent} is kept, version {served.version} answers")
