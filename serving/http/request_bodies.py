"""Request bodies: limits of size and time, and strict JSON."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptdock.serving.http.middleware import refuse, strict_json
from adaptdock.serving.http.service import Service

FILE = "/file"
"""End of the paths that accept an adapter file."""
BINARY = "application/octet-stream"


class RequestBodies:
    """Reads the whole body before the route runs. Refuses a body that is too large, too slow or not JSON."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with its body, or refuse it with 400, 408 or 413."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        file = scope["path"].startswith("/v1/adapters/") and scope["path"].endswith(FILE)
        options = self._service.options
        limit = options.max_upload if file else options.max_body
        declared = headers.get("content-length", "0")
        body: bytes | None = None
        try:
            if not declared.isdigit() or int(declared) <= limit:  # else refused unread
                body = await asyncio.wait_for(_read(receive, limit), self._seconds(limit))
        except TimeoutError:
            await refuse(scope, send, 408, "the body did not arrive in time", "timeout_error")
            return
        except ConnectionError:
            return  # the client has disconnected
        if body is None:
            await refuse(scope, send, 413, f"the body is larger than {limit:,} bytes", "too_large_error")
            return
        problem = None if file else _problem(headers, body)
        if problem is not None:
            await refuse(scope, send, 400, problem, "invalid_request_error")
            return
        await self._app(scope, _replayed(body, receive), send)

    def _seconds(self, limit: int) -> float:
        """Return the seconds for a body: ``receive_timeout``, and proportionally more for uploads."""
        options = self._service.options
        return options.receive_timeout * max(1.0, limit / options.max_body)


async def _read(receive: Receive, limit: int) -> bytes | None:
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        parts += message.get("body", b"")
        if len(parts) > limit:
            return None
        if not message.get("more_body", False):
            return bytes(parts)


def _problem(headers: Headers, body: bytes) -> str | None:
    if not body:
        return None
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        return f"the body has to be application/json, found {kind[:100]}"
    try:
        strict_json(body)
    except UnicodeError as error:
        return (
            f"the body is not valid UTF-8: {error.reason}"
            if isinstance(error, UnicodeDecodeError)
            else ("the body has half of a surrogate pair, which is not a character")
        )
    except RecursionError:
        return "the body is nested too deeply"
    except ValueError as error:
        return f"the body is not JSON: {error}"
    return None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a channel that yields the body first and then the client's later messages."""
    delivered = False

    async def replay() -> Message:
        nonlocal delivered
        if delivered:
            return await receive()
        delivered = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
