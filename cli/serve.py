"""``adapt serve``: a process that answers for all adapters of a folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.config import check_keys, read_config
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, field_flags, load_options
from adaptdock.cli.common.output import note, say, show_pairs
from adaptdock.engine.core.assembly import validated
from adaptdock.errors import UsageError
from adaptdock.serving.configuration import ServingOptions

SERVING = field_flags(ServingOptions, "serve", "Serving")
VARIABLE = "ADAPTDOCK_SERVE_"


@click.command("serve", cls=SectionedCommand)
@click.option("--config", cls=Flag, type=click.Path(path_type=Path), help="Read flags from a YAML or TOML file.")
@click.option("--check", is_flag=True, help="Say what would be served, and whether it could, and end.")
@click.option("--new-token", metavar="SCOPES", help="Add a token to --tokens, show it once, and end: predict or admin.")
@click.option("--token-name", metavar="NAME", help="What the new token is called in the file and in logs.")
@click.option("--token-adapters", metavar="A,B-*", help="Adapters that the new token is for; * is any text.")
def command(
    config: Path | None,
    check: bool,
    new_token: str | None,
    token_name: str | None,
    token_adapters: str | None,
    **values: Any,
) -> None:
    """Answer for every adapter in a folder over HTTP, and take new ones while that goes on.

    A flag wins over a variable of the environment (ADAPTDOCK_SERVE_PORT for --port), and that over the file.
    """
    chosen = decided(values, config)
    if new_token is not None:
        _show_token(chosen.get("tokens"), new_token, token_name or "", token_adapters or "")
        return
    if token_name is not None or token_adapters is not None:
        raise UsageError("--token-name and --token-adapters are of a new token: give --new-token too")
    options = validated(ServingOptions, SERVING.given(chosen), "serving")
    _needs_server()
    if check:
        _check(options, chosen)
        return
    from adaptdock.serving.http.process import serve

    serve(options, load_options(chosen))


command.params += [*SERVING.flags, *LOADING.flags]


def decided(values: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    """Return each flag's value: its own, or that of the environment, or that of the file."""
    names = [*SERVING.fields, *LOADING.fields]
    found: dict[str, Any] = {}
    if config is not None:
        found = read_config(config)
        check_keys(config, found, names, "adapt serve")
    for name in names:
        variable = os.environ.get(VARIABLE + name.upper())
        if variable is not None:
            found[name] = variable
    return {**found, **{name: values[name] for name in names if values.get(name) is not None}}


def _show_token(tokens: str | None, scopes: str, name: str, adapters: str) -> None:
    from adaptdock.serving.http.access_tokens import new_token

    if tokens is None:
        raise UsageError("--new-token needs --tokens, the file that keeps its hash")
    secret = new_token(Path(tokens).expanduser(), scopes, name, adapters)
    note(f"Its hash is in {tokens}. The token is shown this once:")
    say(secret)


def _needs_server() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise UsageError(f"adapt serve needs {', '.join(missing)}: pip install 'adaptdock[serve]'")


def _check(options: ServingOptions, chosen: Mapping[str, Any]) -> None:
    from adaptdock.serving.http.preflight import check

    found = check(options, load_options(chosen))
    show_pairs(found.summary)
    if found.refused:
        raise UsageError(f"{len(found.refused)} adapters cannot be served: {'; '.join(found.refused)}")
