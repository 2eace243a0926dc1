"""The ASGI application: routes, middleware and error handlers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adaptdock import __version__
from adaptdock.errors import AdaptError, UnknownNameError
from adaptdock.serving.http.access_tokens import Tokens
from adaptdock.serving.http.authorization import Access, without_hidden
from adaptdock.serving.http.catalog_routes import catalog_routes
from adaptdock.serving.http.description import describe_tokens
from adaptdock.serving.http.fleet_view import FleetView
from adaptdock.serving.http.following import Following
from adaptdock.serving.http.framing import Framing
from adaptdock.serving.http.label_routes import label_routes
from adaptdock.serving.http.middleware import Envelope, explained, phrase
from adaptdock.serving.http.openai_routes import openai_routes
from adaptdock.serving.http.operator_routes import lora_routes, operator_routes
from adaptdock.serving.http.predict_routes import predict_routes
from adaptdock.serving.http.request_bodies import RequestBodies
from adaptdock.serving.http.request_limits import RequestLimits
from adaptdock.serving.http.service import ClientGone, InputError, Service
from adaptdock.serving.label_file import DraftFile
from adaptdock.serving.page.route import page
from adaptdock.serving.schemas import Problem, Refusal

GONE = 499
"""The status code of nginx for a client that disconnected; only the log shows it."""


def make_app(service: Service, tokens: Tokens | None = None) -> FastAPI:
    """Return the application around a service. Its lifespan starts and stops the service."""
    view = FleetView(service)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        reporting = asyncio.create_task(view.watch())
        yield
        reporting.cancel()
        await service.stop()
        if service.tracing is not None:
            service.tracing.close()

    app = FastAPI(
        title="adaptdock",
        version=__version__,
        summary="One frozen backbone, many small adapters docked into it",
        lifespan=living,
        docs_url=None,  # both pages load scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,  # the redirect would lead to whatever host the request names
        strict_content_type=False,  # RequestBodies has checked the JSON already
    )
    app.state.service, app.state.view = service, view
    app.include_router(operator_routes(service))
    app.include_router(predict_routes(service))
    app.include_router(catalog_routes(service, view))
    app.include_router(openai_routes(service))
    app.include_router(lora_routes(service))
    if service.options.label_file is not None:
        app.include_router(label_routes(service, DraftFile(Path(service.options.label_file).expanduser())))
    app.include_router(page())
    if tokens is not None and tokens.required:
        describe_tokens(app)
    _handle_errors(app, service)
    if service.options.shared:
        app.add_middleware(Following, service=service)
    app.add_middleware(RequestBodies, service=service)  # the last middleware added is the outermost
    app.add_middleware(RequestLimits, service=service)
    app.add_middleware(
        Access, tokens=tokens or Tokens(), local=service.options.local, open_metrics=service.options.open_metrics
    )
    app.add_middleware(Framing)
    app.add_middleware(Envelope, metrics=service.metrics, leaving=lambda: service.status == "stopping")
    if service.tracing is not None:
        app.add_middleware(service.tracing.around)
    return app


def _handle_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(AdaptError)
    async def ours(request: Request, error: AdaptError) -> JSONResponse:
        if isinstance(error, UnknownNameError):
            error = without_hidden(request, service.catalog, error)
        return _refused(request, *explained(error))

    @app.exception_handler(InputError)
    async def of_input(request: Request, error: InputError) -> JSONResponse:
        status, problem, headers = explained(error.error)
        problem.param = f"inputs.{error.number}"
        return _refused(request, status, problem, headers)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> JSONResponse:
        return _refused(request, GONE, Problem(message="the client has gone", type="client_gone"), {})

    @app.exception_handler(RequestValidationError)
    async def of_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "body")
        problem = Problem(message=f"{field or 'the body'}: {first['msg']}", type="invalid_request_error", param=field)
        return _refused(request, 422, problem, {})

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        title = phrase(error.status_code)
        detail = f"{request.method} {request.url.path[:200]}" if error.detail == title else error.detail
        problem = Problem(message=f"{title}: {detail}", type="invalid_request_error")
        return _refused(request, error.status_code, problem, dict(error.headers or {}))


def _refused(request: Request, status: int, problem: Problem, headers: dict[str, str]) -> JSONResponse:
    body = Refusal(error=problem, request_id=request.state.request_id)
    return JSONResponse(body.model_dump(), status, headers)
