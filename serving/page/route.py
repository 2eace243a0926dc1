"""The routes of the page: a document, its scripts and its style, and what a browser may do with them."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline, and no text that is taken for markup."""
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
FILES = ("page.js", "server.js", "answers.js", "table.js", "page.css", "icon.svg")


def page() -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)
    for path, name in [("/", "index.html"), ("/favicon.ico", "icon.svg"), *((f"/page/{name}", name) for name in FILES)]:
        router.add_api_route(path, _sent(name), methods=["GET", "HEAD"], response_class=Response)
    return router


def _sent(name: str) -> Callable[[], Awaitable[Response]]:
    content, kind = (files(__package__) / name).read_bytes(), KINDS[name.rpartition(".")[2]]

    async def send() -> Response:
        return Response(content, media_type=kind, headers={"content-security-policy": POLICY})

    return send
