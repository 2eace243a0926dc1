"""The outermost middleware: request id, security headers, a log line per request, and JSON errors."""

import json
import math
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptdock.errors import (
    AdaptError,
    BackboneError,
    BudgetError,
    DataError,
    FileError,
    MismatchError,
    TrustError,
    UnknownNameError,
    UsageError,
)
from adaptdock.serving.errors import (
    BrokenError,
    BusyError,
    ChangedError,
    DeviceError,
    ForbiddenError,
    LateError,
    LimitError,
    SlowChangeError,
    StartingError,
    StoppingError,
    StoreError,
)
from adaptdock.serving.http.metrics import Metrics
from adaptdock.serving.json_logs import log, log_error
from adaptdock.serving.schemas import Problem, Refusal

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # any other id could forge lines or headers
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}
PROBES = ("/healthz", "/readyz", "/health", "/metrics")
"""Paths that are answered under any load, and not logged."""
STATUS: tuple[tuple[type[AdaptError], int, str], ...] = (
    (UnknownNameError, 404, "not_found_error"),
    (ForbiddenError, 403, "permission_error"),
    (ChangedError, 412, "conflict_error"),
    (BusyError, 429, "rate_limit_error"),
    (LateError, 504, "timeout_error"),
    (SlowChangeError, 504, "timeout_error"),
    (StoppingError, 503, "unavailable_error"),
    (StartingError, 503, "unavailable_error"),
    (BrokenError, 503, "unavailable_error"),
    (DeviceError, 503, "unavailable_error"),
    (BudgetError, 503, "unavailable_error"),
    (StoreError, 507, "storage_error"),
    (LimitError, 413, "too_large_error"),
    (DataError, 422, "invalid_request_error"),
    (UsageError, 422, "invalid_request_error"),
    (BackboneError, 422, "invalid_request_error"),
    (MismatchError, 422, "invalid_adapter_error"),
    (FileError, 422, "invalid_adapter_error"),
    (TrustError, 422, "invalid_adapter_error"),
)
CODES: dict[type[AdaptError], str] = {
    BusyError: "busy",
    StartingError: "starting",
    StoppingError: "stopping",
    BrokenError: "broken",
    DeviceError: "broken",
    ChangedError: "changed",
}
RETRY_SECONDS: dict[type[AdaptError], int] = {StartingError: 1}
LATER_SECONDS = 5


class Envelope:
    """Adds the request id and security headers to every response, and logs and counts the request.

    While ``leaving`` is true, every response closes its connection: the client's next one goes to another process.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, leaving: Callable[[], bool]) -> None:
        self._app, self._metrics, self._leaving = app, metrics, leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request; answer an unexpected error with 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_id = Headers(scope=scope).get("x-request-id", "")
        identity = client_id if REQUEST_ID.fullmatch(client_id) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = identity
        started, status = time.perf_counter(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = identity
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if self._leaving():
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, tell)
        except Exception as error:
            log_error("error", error, request_id=identity)
            if status == 0:  # once a response has started, its status cannot change
                await refuse(
                    scope, tell, 500, "an unexpected error; the log of the process has the details", "server_error"
                )
        finally:
            self._metrics.response(status or 499)  # 499: the client left before any response
            if scope["path"] not in PROBES:
                log(
                    "request",
                    request_id=identity,
                    method=scope["method"],
                    path=scope["path"][:200],
                    status=status or 499,
                    seconds=round(time.perf_counter() - started, 4),
                    token=scope["state"].get("token"),
                    **({"trace_id": trace} if (trace := scope["state"].get("trace_id")) else {}),
                )


def explained(error: AdaptError) -> tuple[int, Problem, dict[str, str]]:
    """Return HTTP status, JSON problem and headers for an error."""
    status, kind = next(((status, kind) for of, status, kind in STATUS if isinstance(error, of)), (500, "server_error"))
    problem = Problem(message=str(error), type=kind, code=CODES.get(type(error)))
    if isinstance(error, UnknownNameError):
        problem.code, problem.nearest = f"unknown_{error.kind}", error.near
    headers = {}
    if status in (429, 503):
        seconds = error.seconds if isinstance(error, BusyError) else RETRY_SECONDS.get(type(error), LATER_SECONDS)
        headers["retry-after"] = str(seconds)
    return status, problem, headers


async def refuse(scope: Scope, send: Send, status: int, message: str, kind: str, **more: Any) -> None:
    """Send an error response without going through the application."""
    headers = more.pop("headers", {})
    body = Refusal(error=Problem(message=message, type=kind, **more), request_id=scope["state"]["request_id"])
    content = body.model_dump_json().encode()
    listed = {"content-type": "application/json", "content-length": str(len(content)), **headers}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in listed.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


def strict_json(body: bytes) -> Any:
    """Parse strict JSON; raise :class:`ValueError` for anything else, NaN and lone surrogates included."""
    content = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    if b"\\u" in body:  # only an escape can hold a lone surrogate, as valid UTF-8 cannot
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is out of range")
    return number


def phrase(status: int) -> str:
    """Return the reason phrase of a status, such as "Not Found"."""
    return HTTPStatus(status).phrase
