"""Routes for operators: health, metrics, and the routes by which other tools load adapters."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from adaptdock.errors import UsageError
from adaptdock.serving.http.authorization import require, require_all
from adaptdock.serving.http.predict_routes import ERRORS
from adaptdock.serving.http.service import Service
from adaptdock.serving.schemas import Changed, Health, LoraLoadRequest, LoraRequest


def operator_routes(service: Service) -> APIRouter:
    """Return the routes. Probes also answer HEAD."""
    router = APIRouter(tags=["process"])

    def health(good: bool, response: Response) -> Health:
        response.status_code = 200 if good else 503
        return Health(status=service.status, adapters=len(service.catalog.names), waiting=service.batcher.waiting)

    async def healthz(response: Response) -> Health:
        """Liveness: 200 unless the process is broken. A stopping process is alive."""
        return health(service.status != "broken", response)

    async def readyz(response: Response) -> Health:
        """Readiness: 200 if requests may be sent here."""
        return health(service.status == "ok", response)

    async def metrics(request: Request) -> Response:
        """Return the metrics of all adapters in the text format of Prometheus."""
        require_all(request)
        queue, budget = service.batcher.queue(), service.options.device_bytes
        text = service.metrics.text(service.catalog, queue, len(service.refused), budget)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    probes: tuple[tuple[str, Callable[[Response], Awaitable[Health]]], ...] = (
        ("/healthz", healthz),
        ("/health", healthz),
        ("/readyz", readyz),
    )
    for path, probe in probes:
        router.add_api_route(path, probe, name=path[1:], responses={503: {"model": Health}})
        router.add_api_route(path, probe, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/metrics", metrics, response_class=Response)
    router.add_api_route("/metrics", metrics, methods=["HEAD"], include_in_schema=False)
    return router


def lora_routes(service: Service) -> APIRouter:
    """Return the routes of vLLM that load and unload an adapter of the watched folder."""
    router = APIRouter(tags=["compatible with vLLM"], responses=ERRORS)  # type: ignore[arg-type]
    catalog = service.catalog

    @router.post("/v1/load_lora_adapter")
    async def load(body: LoraLoadRequest, request: Request) -> Changed:
        """Read the adapter's file in the watched folder, as ``PUT /v1/adapters/NAME`` does."""
        require(request, catalog, body.lora_name)
        if service.watcher is None:
            raise UsageError("no folder is watched from which the file could be read; send the file instead")
        path = service.watcher.file(body.lora_name)
        if body.lora_path not in (None, body.lora_name, path.name, str(path)):
            raise UsageError(
                f"lora_path: no path of a request is read. Put the file into the watched folder as {path.name}, and "
                f"leave lora_path out"
            )
        await service.administer(request, "add", [body.lora_name], catalog.add, body.lora_name, path, True, True)
        return Changed(adapter=body.lora_name, version=catalog.served(body.lora_name).current.number)

    @router.post("/v1/unload_lora_adapter", status_code=204)
    async def unload(body: LoraRequest, request: Request) -> None:
        """Unload an adapter, as ``DELETE /v1/adapters/NAME`` does."""
        require(request, catalog, body.lora_name)
        await service.administer(request, "remove", [body.lora_name], catalog.remove, body.lora_name)

    return router
