"""``adapt push``: an adapter file on its way to a serving process."""

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
@click.argument("given", metavar="FILE")
@click.option("--to", "url", required=True, metavar="URL", help="Address of the serving process.")
@click.option("--name", help="Name under which it is served; that of FILE unless given.")
@click.option("--activate/--no-activate", default=True, help="Let it answer at once, or only as NAME@VERSION.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="SECONDS"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(given: str, url: str, name: str | None, activate: bool, timeout: float, as_json: bool) -> None:
    """Send an adapter to a serving process, as a new version of the adapter NAME.

    FILE is a path, or the name of an installed adapter (adapt list).

    The process verifies it before anything changes. A token that it wants, with the scope admin, stands in the
    variable ADAPTDOCK_TOKEN.
    """
    from adaptdock.serving.client.client import Client

    file = locate(given)
    read_header(file)  # what is no adapter is not sent
    name = name or Path(given).name.removesuffix(SUFFIX)
    content = read_regular(file)
    admit(file, content)
    with Client(url, timeout=timeout) as client:
        client.push(name, content, activate)
        served = client.adapter(name)
    mark = hashlib.sha256(content).hexdigest()
    sent = next((one.version for one in served.versions if one.sha256 == mark), None)
    if as_json:
        show_json({"adapter": name, "version": sent, "answers": served.version})
    elif sent == served.version:
        say(f"{name}: version {sent} answers")
    else:
        say(f"{name}: version {sent} is kept, version {served.version} answers")
