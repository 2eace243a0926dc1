"""Heads that are too long, what is not HTTP, and requests that are refused from their first bytes."""

import json
import socket
from contextlib import AbstractContextManager
from typing import Any

import pytest
from served import running

from adaptdock.serving.http.timed_protocol import HEAD_BYTES, timed_protocol


class Refusing:
    """Refuses each POST."""

    def refusal(self, data: bytes) -> bytes | None:
        return REFUSAL if data.startswith(b"POST") else None


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def listening(shedding: Refusing | None = None) -> AbstractContextManager[int]:
    return running(app, timed_protocol(10, shedding=shedding))


def answer(port: int, *parts: bytes) -> bytes:
    """Send the parts and return what comes back until the connection closes; a reset is no answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
            while data := connection.recv(65536):
                received += data
        except OSError:
            pass
        return received


REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def test_a_head_over_the_limit_ends_the_connection() -> None:
    line = b"x-more: " + b"a" * 1000 + b"\r\n"
    lines = HEAD_BYTES // len(line)
    with listening() as port:
        fitting = answer(
            port, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", *[line] * (lines - 1), b"\r\n"
        )
        endless = answer(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n", *[line] * 3 * lines)
    assert fitting.startswith(b"HTTP/1.1 204 ")
    assert endless == b""


@pytest.mark.parametrize(
    "data", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_what_is_not_http_gets_400_as_json(data: bytes) -> None:
    with listening() as port:
        head, _, content = answer(port, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(content)["error"]["message"].startswith("the request is not valid HTTP/1.1: ")


def test_a_refusal_is_sent_for_the_first_bytes_of_a_request() -> None:
    with listening(Refusing()) as port:
        assert answer(port, b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n") == REFUSAL
        assert answer(port, GET).startswith(b"HTTP/1.1 204 ")
