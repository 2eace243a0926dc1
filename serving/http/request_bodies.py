"""Bodies: how much of one is read, for how long, and whether it is JSON."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.middleware import refuse, strict_json

FILE = "/file"
"""Where a path ends to which an adapter file is sent."""
BINARY = "application/octet-stream"


class Bodies:
    """Reads a body whole before anything else happens; what is too large, too slow or no JSON is refused."""

    def __init__(self, app: ASGIApp, options: ServingOptions) -> None:
        self._app, self._options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        file = scope["path"].startswith("/v1/adapters/") and scope["path"].endswith(FILE)
        limit = self._options.max_upload if file else self._options.max_body
        declared = headers.get("content-length", "0")
        body: bytes | None = None
        try:
            if not declared.isdigit() or int(declared) <= limit:
                body = await asyncio.wait_for(_read(receive, limit), self._seconds(limit))
        except TimeoutError:
            await refuse(scope, send, 408, "the body did not arrive in time", "timeout_error")
            return
        except ConnectionError:
            return  # nobody is left to be answered
        if body is None:
            await refuse(scope, send, 413, f"the body is larger than {limit:,} bytes", "too_large_error")
            return
        problem = None if file else _problem(headers, body)
        if problem is not None:
            await refuse(scope, send, 400, problem, "invalid_request_error")
            return
        await self._app(scope, _replayed(body, receive), send)

    def _seconds(self, limit: int) -> float:
        """Return the time that a body gets: that of an ordinary one, and more as it may be larger."""
        return self._options.receive_timeout * max(1.0, limit / self._options.max_body)


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
            else ("the body holds half of a surrogate pair, which is no text")
        )
    except RecursionError:
        return "the body is nested too deeply"
    except ValueError as error:
        return f"the body is not JSON: {error}"
    return None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives the body, and after it what else comes from the client."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
