"""``adapt serve``: serve all adapters of a folder over HTTP."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adaptdock.cli.common.config import check_keys, read_config
from adaptdock.cli.common.flags import LOADING, Flag, SectionedCommand, field_flags
from adaptdock.cli.common.output import note, say, show_pairs
from adaptdock.cli.common.precision import NAME, precision_flag, prediction_options
from adaptdock.engine.core.assembly import validated
from adaptdock.engine.core.ray_cluster import require_ray
from adaptdock.errors import UsageError
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.fleet_size import FleetSize

SERVING = field_flags(ServingOptions, "serve", "Serving")
VARIABLE = "ADAPTDOCK_SERVE_"


@click.command("serve", cls=SectionedCommand)
@click.option("--config", cls=Flag, type=click.Path(path_type=Path), help="Read flags from a YAML or TOML file.")
@click.option("--check", is_flag=True, help="Show the adapters to serve and check them, without serving.")
@click.option(
    "--new-token", metavar="SCOPES", help="Add a token to --tokens, show it once, and exit. Scopes: predict or admin."
)
@click.option("--token-name", metavar="NAME", help="Name of the new token in the file and in logs.")
@click.option("--ray", "on_ray", is_flag=True, help="Serve with several replicas on Ray, which share the state.")
@click.option("--replicas", metavar="N|N-M", help="Replicas with --ray; a range follows the load.  [default: 2]")
@click.option(
    "--ray-address", metavar="HOST:PORT", help="Running Ray cluster, or auto; default: a new one on this machine."
)
@click.option("--token-adapters", metavar="A,B-*", help="Adapters that the new token may use; * matches any text.")
def command(
    config: Path | None,
    check: bool,
    new_token: str | None,
    token_name: str | None,
    token_adapters: str | None,
    on_ray: bool,
    replicas: str | None,
    ray_address: str | None,
    **values: Any,
) -> None:
    """Serve every adapter in a folder over HTTP, and load new files while serving.

    A flag overrides its environment variable (ADAPTDOCK_SERVE_PORT for --port); a variable overrides --config.
    """
    flags = decided(values, config)
    if new_token is not None:
        _show_token(flags.get("tokens"), new_token, token_name or "", token_adapters or "")
        return
    if token_name is not None or token_adapters is not None:
        raise UsageError("--token-name and --token-adapters are for a new token: add --new-token")
    options = validated(ServingOptions, SERVING.given(flags), "serving")
    if not on_ray and (replicas is not None or ray_address is not None):
        raise UsageError("--replicas and --ray-address are for a fleet on Ray: add --ray")
    size = FleetSize() if replicas is None else FleetSize.parse(replicas)
    _needs_server()
    if on_ray:
        require_ray("adapt serve --ray")
    if check:
        _check(options, flags)
        return
    # the log elsewhere has lines of JSON only
    announce, tell = (_announce, note) if sys.stderr.isatty() else (None, _log_precision)
    load = prediction_options(flags, tell)
    if on_ray:
        from adaptdock.serving.ray import run

        run(options, load, size, ray_address, announce)
        return
    from adaptdock.serving.http.process import serve

    serve(
        options,
        load,
        lambda: validated(ServingOptions, SERVING.given(decided(values, config)), "serving"),
        announce,
    )


def _announce(address: str) -> None:
    note(f"Serving at {address} (Ctrl-C ends)")


def _log_precision(sentence: str) -> None:
    from adaptdock.serving.json_logs import log, to_standard_error

    with to_standard_error():
        log("precision", reason=sentence)


command.params += [*SERVING.flags, *LOADING.flags, precision_flag()]


def decided(values: Mapping[str, Any], config: Path | None) -> dict[str, Any]:
    """Return the value of each flag: from the command line, else the environment, else the file."""
    names = [*SERVING.fields, *LOADING.fields, NAME]
    settings: dict[str, Any] = {}
    if config is not None:
        settings = read_config(config)
        check_keys(config, settings, names, "adapt serve")
    for name in names:
        variable = os.environ.get(VARIABLE + name.upper())
        if variable is not None:
            settings[name] = variable
    return {**settings, **{name: values[name] for name in names if values.get(name) is not None}}


def _show_token(tokens: str | None, scopes: str, name: str, adapters: str) -> None:
    from adaptdock.serving.http.access_tokens import new_token

    if tokens is None:
        raise UsageError("--new-token needs --tokens, the file for its hash")
    secret = new_token(Path(tokens).expanduser(), scopes, name, adapters)
    note(f"The hash of the token is in {tokens}. The token is shown only once:")
    say(secret)


def _needs_server() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise UsageError(f"adapt serve needs {', '.join(missing)}: pip install 'adaptdock[serve]'")


def _check(options: ServingOptions, flags: Mapping[str, Any]) -> None:
    from adaptdock.serving.http.preflight import check

    result = check(options, prediction_options(flags))
    show_pairs(result.summary)
    if result.refused:
        raise UsageError(f"{len(result.refused)} adapters cannot be served: {'; '.join(result.refused)}")
