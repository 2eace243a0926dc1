"""Authorization: which requests are allowed."""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptdock.errors import UnknownNameError
from adaptdock.serving.catalog.catalog import Catalog
from adaptdock.serving.errors import ForbiddenError
from adaptdock.serving.http.access_tokens import Token, Tokens
from adaptdock.serving.http.middleware import refuse

METRICS = "/metrics"
OPEN = ("/", "/label", "/healthz", "/readyz", "/health", "/openapi.json", "/favicon.ico")
"""Paths without authorization."""
PAGE = "/page/"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
MANAGED = ("/v1/adapters", "/v1/aliases", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
"""Paths whose changes need the scope admin."""


class Access:
    """Allows requests whose token has the scope; without required tokens, only requests addressed to this machine.

    ``local`` says that only this machine can reach the process. A web page from elsewhere could still make a browser
    here send a request (DNS rebinding). Such a request has a foreign Host or Origin header and is refused.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, local: bool, open_metrics: bool = False) -> None:
        self._app, self._tokens, self._local, self._open_metrics = app, tokens, local, open_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on an allowed request; refuse any other with 401 or 403 before its body is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._local and not self._tokens.required and not _means_this_machine(headers):
            await refuse(scope, send, 403, "without tokens this process answers this machine alone", "permission_error")
            return
        needed = scope_of(scope["method"], scope["path"])
        if self._open_metrics and scope["path"] == METRICS:
            needed = None
        if needed is None or not self._tokens.required:
            await self._app(scope, receive, send)
            return
        kind, _, secret = headers.get("authorization", "").partition(" ")
        token = self._tokens.find(secret.strip()) if kind.lower() == "bearer" else None
        if token is None:
            message = "the token is not known here" if secret else "a token is needed: Authorization: Bearer TOKEN"
            challenge = {"www-authenticate": "Bearer"}
            await refuse(scope, send, 401, message, "authentication_error", headers=challenge)
        elif not token.allows(needed):
            scope["state"]["token"] = token.name
            await refuse(scope, send, 403, f"the token has not the scope {needed}", "permission_error")
        else:
            scope["state"] |= {"token": token.name, "access": token}
            await self._app(scope, receive, send)


def scope_of(method: str, path: str) -> str | None:
    """Return the scope for a request, or None for open paths."""
    if path in OPEN or path.startswith(PAGE):
        return None
    changes = method not in ("GET", "HEAD", "OPTIONS")
    return "admin" if changes and path.startswith(MANAGED) else "predict"


def covered(request: Request, catalog: Catalog) -> Callable[[str], bool]:
    """Return a test of names: whether the token of a request is for an adapter, or for the adapter of an alias."""
    token: Token | None = getattr(request.state, "access", None)
    if token is None:
        return lambda name: True
    aliases = catalog.aliases
    return lambda name: token.covers(aliases.get(name, name).partition("@")[0])


def require(request: Request, catalog: Catalog, *names: str) -> None:
    """Raise :class:`ForbiddenError` for a name that the token of a request is not for, whether or not it exists."""
    is_covered = covered(request, catalog)
    for name in names:
        for part in name.split("+"):
            if not is_covered(part.partition("@")[0]):
                raise ForbiddenError(part)


def require_all(request: Request) -> None:
    """Raise :class:`ForbiddenError` if the token of a request is for some adapters only."""
    token: Token | None = getattr(request.state, "access", None)
    if token is not None and "*" not in token.adapters:
        raise ForbiddenError(request.url.path)


def without_hidden(request: Request, catalog: Catalog, error: UnknownNameError) -> UnknownNameError:
    """Return the error without the known names that the token of a request is not for."""
    is_covered = covered(request, catalog)
    known = [name for name in error.known if is_covered(name.partition("@")[0])]
    return error if known == error.known else UnknownNameError(error.kind, error.name, known)


def _means_this_machine(headers: Headers) -> bool:
    host = headers.get("host", "localhost")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    origin = headers.get("origin")
    return name.lower() in LOCAL_HOSTS and (origin is None or origin.rpartition("//")[2].lower() == host.lower())
