"""Framing: a request with an ambiguous end or host is refused, and its connection closed.

RFC 9112, 6.1: given Content-Length and Transfer-Encoding, a proxy may use one and this process the other. The bytes
between the two ends would then pass for another client's request (request smuggling). RFC 9112, 3.2: a request of
HTTP/1.1 has exactly one Host, as a proxy and this process may also choose different ones of several.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptdock.serving.http.middleware import refuse


class Framing:
    """Refuses an ambiguous request before its body is read, whichever HTTP parser is in use."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with one end and one host; refuse any other with 400."""
        if scope["type"] == "http" and (problem := _problem(Headers(scope=scope), scope["http_version"])):
            closing = {"connection": "close"}
            await refuse(scope, send, 400, problem, "invalid_request_error", headers=closing)
        else:
            await self._app(scope, receive, send)


def _problem(headers: Headers, version: str) -> str:
    hosts = len(headers.getlist("host"))
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return f"HTTP/{version} needs one Host, and the request has {hosts or 'none'}"
    if "transfer-encoding" not in headers:
        return ""
    if "content-length" in headers:
        return "Content-Length and Transfer-Encoding do not go together"
    return "" if version == "1.1" else f"HTTP/{version} has no Transfer-Encoding"
