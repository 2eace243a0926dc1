"""Limits of requests: of all together, shared among the clients, and of a token. Probes are always answered.

A client is a token; without tokens all requests are of one client.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptdock.serving.http.access_tokens import Token
from adaptdock.serving.http.middleware import PROBES, refuse
from adaptdock.serving.http.service import Service

COMPUTED = ("/v1/predict", "/v1/embeddings")
"""Paths whose bodies are inputs for batches."""


@dataclass
class Bucket:
    """The requests that a token may send at once (token bucket): up to those of a second, and at least one."""

    level: float
    since: float

    def take(self, rate: float, now: float) -> float:
        """Take a request out; return 0, or the seconds until there is one."""
        self.level = min(max(1.0, rate), self.level + (now - self.since) * rate)
        self.since = now
        if self.level < 1:
            return (1 - self.level) / rate
        self.level -= 1
        return 0.0


class RequestLimits:
    """Refuses requests over a limit with 429 before their body is read."""

    def __init__(self, app: ASGIApp, service: Service, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._service, self._clock = app, service, clock
        self._buckets: dict[str, Bucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request within the limits, or a probe."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        token: Token | None = scope["state"].get("access")
        client = "" if token is None else token.name
        refusal = self._excess(client) or self._excess_of_size(client, scope)
        refusal = refusal or (None if token is None else self._excess_of(token))
        if refusal is not None:
            reason, message, seconds = refusal
            self._service.metrics.refused(reason)
            headers = {"retry-after": str(seconds), "connection": "close"}
            text = f"{message}: try again in {seconds} s"
            await refuse(scope, send, 429, text, "rate_limit_error", code="busy", headers=headers)
            return
        running = self._service.lag.requests
        running[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            running[client] -= 1
            if not running[client]:
                del running[client]

    def _excess(self, client: str) -> tuple[str, str, int] | None:
        """Return why there is no room for another request of a client: reason, message, and seconds to wait."""
        running = self._service.lag.requests
        limit, total = self._service.options.connections, running.total()
        share = limit // len(running.keys() | {client})
        if self._service.lag.sheds(client):
            return "lag", f"{total} requests are being read or answered already", self._service.batcher.patience(client)
        if total < limit or running[client] < share:
            return None
        return "connections", f"{total} requests are being answered already", self._service.batcher.patience(client)

    def _excess_of_size(self, client: str, scope: Scope) -> tuple[str, str, int] | None:
        """Return why a large request is refused before its body is read."""
        if scope["path"] not in COMPUTED:
            return None
        size = Headers(scope=scope).get("content-length", "")
        if not size.isdecimal():
            return None
        wait = self._service.batcher.admission.wait_of_large(client, int(size))
        if not wait:
            return None
        message = f"the inputs would wait about {wait:.1f} s for earlier ones"
        return "time", message, self._service.batcher.patience(client)

    def _excess_of(self, token: Token) -> tuple[str, str, int] | None:
        """Return which limit of its own a token has reached."""
        running = self._service.lag.requests[token.name]
        if token.concurrent is not None and running >= token.concurrent:
            message = f"{running} requests of the token {token.name} are being answered already, which is its limit"
            return "concurrent", message, self._service.batcher.patience(token.name)
        if token.rate is not None:
            now = self._clock()
            bucket = self._buckets.setdefault(token.name, Bucket(math.inf, now))
            if seconds := bucket.take(token.rate, now):
                message = f"the token {token.name} may send {token.rate:g} requests per second"
                return "rate", message, math.ceil(seconds)
        return None
