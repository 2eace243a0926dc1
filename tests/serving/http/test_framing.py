"""A request whose end or host could be understood in two ways is refused, and nothing after it is heard."""

import asyncio
import gzip
import json
import socket
from typing import Any

import pytest
from served import TEXT, Client, listening

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
    headers = [(b"host", b"localhost"), (b"content-length", b"4"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "http_version": "1.1", "headers": headers, "state": {"request_id": "1"}}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    asyncio.run(Framing(receive)(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]


QUESTION = json.dumps({"adapter": "red", "inputs": [TEXT]}).encode()


def post(
    *lines: str, target: str = "/v1/predict", body: bytes = QUESTION, sized: bool = True, end: str = "\r\n"
) -> bytes:
    """Return a request to predict with further lines in its head."""
    head = [f"POST {target} HTTP/1.1", "Content-Type: application/json", "Connection: close", *lines]
    return end.join([*head, *([f"Content-Length: {len(body)}"] if sized else []), "", ""]).encode("latin-1") + body


HOST = "Host: localhost"
CHUNKED = (HOST, "Transfer-Encoding: chunked")
MALFORMED = {
    "two lengths": post(HOST, "Content-Length: 4"),
    "a length with a sign": post(HOST, "Content-Length: +5", sized=False),
    "a list of lengths": post(HOST, "Content-Length: 5, 5", sized=False),
    "two encodings": post(*CHUNKED, "Transfer-Encoding: identity", sized=False, body=b"0\r\n\r\n"),
    "an unknown encoding": post(HOST, "Transfer-Encoding: xchunked", sized=False, body=b"0\r\n\r\n"),
    "a chunk of a signed size": post(*CHUNKED, sized=False, body=b"+5\r\nhello\r\n0\r\n\r\n"),
    "a chunk of an enormous size": post(*CHUNKED, sized=False, body=b"FFFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
    "a line feed in a chunk extension": post(*CHUNKED, sized=False, body=b"1;a\nb\r\nx\r\n0\r\n\r\n"),
    "a space before a colon": post(HOST, "X-A : 1"),
    "a folded line": post(HOST, "X-A: 1\r\n b"),
    "a carriage return in a value": post(HOST, "X-A: 1\rX-B: 2"),
    "a zero byte in a value": post(HOST, "X-A: a\0b"),
    "lines that end with a line feed only": post(HOST, end="\n"),
    "two hosts": post(HOST, "Host: evil.example"),
    "two hosts, the foreign one first": post("Host: evil.example", HOST),
    "no host": post(),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_request_that_two_parsers_may_read_in_two_ways_is_refused(client: Client, name: str) -> None:
    with listening(client, seconds=2) as port:
        answer = answers(port, MALFORMED[name] + HIDDEN)
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:300]
    assert answer.count(b" 400 Bad Request\r\n") == 1
    assert b" 200 OK\r\n" not in answer
    assert b"SMUGGLED" not in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(HOST, "Content-Encoding: gzip", body=gzip.compress(b"0" * 10_000_000)), b"400"),
        (post(HOST, target="//v1/predict"), b"404"),
        (post(HOST, "X-HTTP-Method-Override: DELETE", target="/v1/adapters/red"), b"405"),
        (post(HOST, target="/v1/" + "a" * 60_000), b"404"),
    ],
    ids=["a packed body", "a double slash", "another method in a header", "a long path"],
)
def test_a_request_by_a_side_door_is_refused(client: Client, sent: bytes, status: bytes) -> None:
    with listening(client, seconds=2) as port:
        assert answers(port, sent).startswith(b"HTTP/1.1 " + status)
    assert client.label("red") == "RED"


def test_requests_sent_without_waiting_for_answers_are_each_answered_once(client: Client) -> None:
    again = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with listening(client, seconds=2) as port:
        answer = answers(port, again * 2 + again.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answer.count(b"HTTP/1.1 200 ") == 3
