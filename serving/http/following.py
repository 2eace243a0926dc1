"""Following: a request sees every change that another process of a shared state has acknowledged before it."""

from starlette.types import ASGIApp, Receive, Scope, Send

from adaptdock.serving.http.middleware import PROBES
from adaptdock.serving.http.service import Service


class Following:
    """Takes over the changes of other processes before each request but probes."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Follow, and pass the request on."""
        if scope["type"] == "http" and scope["path"] not in PROBES:
            await self._service.follow()
        await self._app(scope, receive, send)
