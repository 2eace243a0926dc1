"""A request whose end could be understood in two ways is refused, and nothing after it is heard."""

import asyncio
import socket
from typing import Any

import pytest
from served import Client, listening

from adaptdock.serving.http.framing import Framing

BOTH = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
HIDDEN = b"GET /v1/adapters/SMUGGLED HTTP/1.1\r\nHost: localhost\r\n\r\n"


def answers(port: int, sent: bytes) -> bytes:
    """Return all that is answered until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), 5) as to:
        to.sendall(sent)
        parts = []
        while part := to.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "head", [BOTH, BOTH.replace(b"POST", b"GET"), BOTH.replace(b"Content-Length: 4\r\n", b"").replace(b"1.1", b"1.0")]
)
def test_an_ambiguous_end_is_refused_and_the_connection_closed(client: Client, head: bytes) -> None:
    with listening(client, seconds=10) as port:
        answer = answers(port, head + b"0\r\n\r\n" + HIDDEN)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()
    assert b"Transfer-Encoding" in answer
    assert b"SMUGGLED" not in answer


def test_a_clear_end_is_served(client: Client) -> None:
    chunked = BOTH.replace(b"Content-Length: 4\r\n", b"Connection: close\r\n").replace(b"POST", b"GET")
    with listening(client, seconds=10) as port:
        assert b"Transfer-Encoding" not in answers(port, chunked.replace(b"/v1/predict", b"/healthz") + b"0\r\n\r\n")


def test_what_another_parser_lets_through_is_refused_too() -> None:
    """The check sees the scope alone, so that it holds for every server."""
    headers = [(b"content-length", b"4"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "http_version": "1.1", "headers": headers, "state": {"request_id": "1"}}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    asyncio.run(Framing(receive)(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]
