"""Responses as bytes, for requests that are refused before they are parsed."""

from http import HTTPStatus
from uuid import uuid4

from adaptdock.serving.http.middleware import HEADERS
from adaptdock.serving.schemas import Problem, Refusal


def raw_refusal(status: int, problem: Problem, retry_after: int | None = None) -> bytes:
    """Return a whole HTTP/1.1 response with this problem, after which the connection closes."""
    identity = uuid4().hex
    content = Refusal(error=problem, request_id=identity).model_dump_json().encode()
    headers = HEADERS | {
        "x-request-id": identity,
        "cache-control": "no-store",
        "content-type": "application/json",
        "content-length": str(len(content)),
        "connection": "close",
    }
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + content
