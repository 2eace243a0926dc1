"""The routes of the two web pages: documents, their scripts and their style, under a strict content security policy."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""Only files of this process, no inline code, and no text that is parsed as markup."""
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
FILES = ("page.js", "label.js", "server.js", "answers.js", "table.js", "page.css", "icon.svg")


def page() -> APIRouter:
    """Return the routes of the pages, which are not part of the OpenAPI description."""
    router = APIRouter(include_in_schema=False)
    documents = [("/", "index.html"), ("/label", "label.html"), ("/favicon.ico", "icon.svg")]
    for path, name in [*documents, *((f"/page/{name}", name) for name in FILES)]:
        router.add_api_route(path, _static_route(name), methods=["GET", "HEAD"], response_class=Response)
    return router


def _static_route(name: str) -> Callable[[], Awaitable[Response]]:
    content, kind = (files(__package__) / name).read_bytes(), KINDS[name.rpartition(".")[2]]

    async def send() -> Response:
        return Response(content, media_type=kind, headers={"content-security-policy": POLICY})

    return send
