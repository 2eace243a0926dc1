"""Too many at a time: connections give way, and requests are refused in the envelope; probes are answered."""

import json
import socket
import threading
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest
from served import TEXT, Client, held, listening, serving, until

from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http import process
from adaptdock.serving.http.connections import Connections

ASKED = {"adapter": "red", "inputs": [TEXT]}
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


class Transport:
    """A connection that remembers whether it was closed."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_requests_beyond_the_limit_are_told_when_to_come_back_and_probes_are_answered(
    backbone: Backbone, folder: Path
) -> None:
    with serving(backbone, adapters=str(folder), connections=2) as client:
        threads = [threading.Thread(target=client.ask, args=("red", TEXT)) for _ in range(2)]
        with held(client):
            for thread in threads:
                thread.start()
            until(lambda: client.service.batcher.waiting == 2)
            answer = client.post("/v1/predict", json=ASKED)
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "busy")
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["connection"] == "close"
            assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        for thread in threads:
            thread.join()
        assert client.label("red") == "RED"


def test_the_longest_idle_connection_gives_way_and_those_that_are_answered_stay() -> None:
    connections = Connections(3)
    answered, idle, silent, new = (Transport() for _ in range(4))
    for transport in (answered, idle, silent):
        connections.opened(transport)
    connections.busy(answered)
    connections.busy(idle)
    connections.idle(idle)  # it was answered after the others had opened
    for transport in (answered, silent):
        connections.silent(transport)
    connections.opened(new)
    assert [transport.aborted for transport in (answered, idle, silent, new)] == [False, False, True, False]
    connections.closed(answered)
    assert len(connections) == 2


def test_a_new_connection_has_time_to_send_its_request_as_long_as_there_is_a_reserve() -> None:
    connections = Connections(4)
    transports = [Transport() for _ in range(8)]
    for transport in transports:
        connections.opened(transport)
    assert [transport.aborted for transport in transports] == [True, True] + [False] * 6


def test_where_all_are_busy_and_the_reserve_is_used_the_newest_gives_way() -> None:
    connections = Connections(4)
    transports = [Transport() for _ in range(6)]
    for transport in transports:
        connections.opened(transport)
        connections.busy(transport)
    late = Transport()
    connections.opened(late)
    assert late.aborted
    assert not any(transport.aborted for transport in transports)
    assert len(connections) == 6


def test_heads_that_do_not_come_keep_no_probe_from_its_answer(client: Client) -> None:
    connections = Connections(3)
    with listening(client, 20, connections) as port, ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(12)]
        for sender in slow[-4:]:
            sender.sendall(HEAD)
        probe = HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(2):  # on one connection
            probe.request("GET", "/healthz")
            answer = probe.getresponse()
            assert (answer.status, json.loads(answer.read())["status"]) == (200, "ok")
        assert len(connections) <= 4
        stack.close()
        probe.close()
        until(lambda: len(connections) == 0)


@pytest.mark.parametrize(
    ("soft", "hard", "possible", "limit"),
    [(8192, 8192, 2048, None), (1024, 8192, 2048, 3072 + 256), (1024, 1024, 512, 1024), (256, 256, 1, 256)],
)
def test_the_limit_of_open_files_is_raised_or_there_are_fewer_connections(
    soft: int, hard: int, possible: int, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert process.within_file_limit(ServingOptions(adapters="a", connections=2048)).connections == possible
    assert limits == ([] if limit is None else [(limit, hard)])
