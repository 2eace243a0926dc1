"""Framing: a request whose end could be understood in two ways is refused, and its connection closed.

RFC 9112, 6.1: with Content-Length and Transfer-Encoding a proxy may go by the one and this process by the other, and
what is left between them would be taken for another client's request.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptdock.serving.http.middleware import refuse


class Framing:
    """Refuses what is ambiguous before anything is read of it, whichever parser has read the head."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if its end is clear."""
        if scope["type"] == "http" and (problem := _problem(Headers(scope=scope), scope["http_version"])):
            closing = {"connection": "close"}
            await refuse(scope, send, 400, problem, "invalid_request_error", headers=closing)
        else:
            await self._app(scope, receive, send)


def _problem(headers: Headers, version: str) -> str:
    if "transfer-encoding" not in headers:
        return ""
    if "content-length" in headers:
        return "Content-Length and Transfer-Encoding do not go together"
    return "" if version == "1.1" else f"HTTP/{version} has no Transfer-Encoding"
