"""A fleet of serving processes on Ray Serve.

Each replica is a whole serving process: its backbone, dock, catalog, batcher and routes are those of ``adapt serve``.
All share one state, so that a change by one of them is a change of all. On a cluster of its own::

    serve run adaptdock.serving.ray:app adapters=/shared/adapters replicas=4
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from adaptdock.engine.core.assembly import validated
from adaptdock.engine.core.ray_cluster import connected, gpus_for
from adaptdock.errors import AdaptError
from adaptdock.plugins.contracts import LoadOptions
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.fleet_size import FleetSize
from adaptdock.serving.http.access_tokens import Tokens, read_tokens
from adaptdock.serving.http.app import make_app
from adaptdock.serving.http.process import AFTER_DRAIN, listen, open_service
from adaptdock.serving.http.service import Service
from adaptdock.serving.json_logs import lines_to_standard_error, log

NAME = "adaptdock"
ROUTER = "adaptdock.serving.ray_router.AffinityRouter"
LOOK_SECONDS = 0.1


def app(settings: Mapping[str, Any]) -> serve.Application:
    """Return the application for ``serve run``; ``settings`` are ``replicas`` and the flags of ``adapt serve``.

    Raises :class:`UsageError` for an unknown or invalid setting.
    """
    values = {name.replace("-", "_"): value for name, value in settings.items()}
    replicas = FleetSize.parse(values.pop("replicas", 2))
    load = {name: values.pop(name) for name in list(values) if name in LoadOptions.model_fields}
    options = validated(ServingOptions, values, "serving")
    return fleet(options, validated(LoadOptions, load, "backbone"), replicas)


def fleet(options: ServingOptions, load: LoadOptions, replicas: FleetSize) -> serve.Application:
    """Return the application: ``replicas`` processes that share the state of ``options``.

    A fleet that may grow has as many replicas as keep the requests of each at about one batch of rows.
    """
    options = validated(ServingOptions, {**options.model_dump(exclude_unset=True), "shared": True}, "serving")

    def build() -> FastAPI:
        lines_to_standard_error()
        tokens = read_tokens(Path(options.tokens).expanduser()) if options.tokens else Tokens()
        return make_app(open_service(options, load), tokens)

    @serve.deployment(
        name=NAME,
        **_scaling(replicas, options.batch_rows),
        max_ongoing_requests=options.connections,
        graceful_shutdown_timeout_s=options.drain + AFTER_DRAIN,
        ray_actor_options={"num_gpus": gpus_for(load.device, replicas.least)},
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    )
    @serve.ingress(build)
    class Replica:
        """A serving process. Ray sends it requests once it is ready, and replaces it if it is broken."""

        async def check_health(self) -> None:
            service: Service = self.app.state.service  # type: ignore[attr-defined]  # of Ray's wrapper
            while service.status == "starting":
                await asyncio.sleep(LOOK_SECONDS)
            if service.status == "broken":
                raise RuntimeError("the process is broken; its log has the reason")

    application: serve.Application = Replica.bind()  # type: ignore[attr-defined]  # the decorators are untyped
    return application


def run(
    options: ServingOptions,
    load: LoadOptions,
    replicas: FleetSize,
    address: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve with a fleet until a stop signal: on the cluster at ``address``, or on a new one on this machine.

    ``announce`` is called with the address for requests. Raises :class:`UsageError` for an address that cannot be
    bound or a cluster that cannot be reached, and :class:`AdaptError` for replicas that do not start.
    """
    if options.tokens:
        read_tokens(Path(options.tokens).expanduser())
    with listen(options) as listening:
        port = listening.getsockname()[1]
    with connected(address):
        stopped = _stop_signals()  # after Ray, which sets handlers of its own
        try:
            serve.start(http_options={"host": options.host, "port": port})
            try:
                serve.run(fleet(options, load, replicas), name=NAME, route_prefix="/")
            except RuntimeError:
                raise AdaptError(f"the replicas did not start: {_reason()}") from None
            log("fleet ready", replicas=str(replicas), host=options.host, port=port)
            if announce is not None:
                announce(f"http://{options.host}:{port}")
            stopped.wait()
        finally:
            if address is None:
                serve.shutdown()
            else:
                serve.delete(NAME)


def _scaling(replicas: FleetSize, rows: int) -> dict[str, Any]:
    """Return the settings of a deployment for its number of replicas."""
    if not replicas.grows:
        return {"num_replicas": replicas.least}
    growth = AutoscalingConfig(
        min_replicas=replicas.least, max_replicas=replicas.most, target_ongoing_requests=float(rows)
    )
    return {"autoscaling_config": growth}


def _stop_signals() -> threading.Event:
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped


def _reason() -> str:
    """Return why the replicas do not start: our own error in the traceback of a replica, or else its last line."""
    message: str = serve.status().applications[NAME].deployments[NAME].message
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["the log of Ray has the reason"]
    errors = [line.partition(": ")[2] for line in lines if line.startswith("adaptdock.") and ": " in line]
    return errors[-1] if errors else lines[-1]
