"""A process that ends is not ready first, and then accepts nothing; each client is told to connect elsewhere."""

import signal
import threading
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
import uvicorn
from served import TEXT, Client, listening, until

from adaptdock.serving.http import process
from adaptdock.serving.http.process import Server
from adaptdock.serving.scheduling import device_health

ASKED = {"adapter": "red", "inputs": [TEXT]}


class Sleep:
    """Replaces the sleep of the thread that ends the process: each lasts until it is ended."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._ended = threading.Semaphore(0)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._ended.acquire(timeout=60)

    def end(self) -> None:
        self._ended.release()


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sleep]:
    sleep = Sleep()
    monkeypatch.setattr(process, "sleep", sleep)
    monkeypatch.setattr(process.os, "_exit", lambda status: None)
    yield sleep
    for thread in threading.enumerate():
        if thread.name == "limit of the drain":
            while thread.is_alive():
                sleep.end()
                thread.join(0.01)


@pytest.fixture
def server(client: Client, sleep: Sleep) -> Server:
    return Server(uvicorn.Config(client.app), client.service)


def test_readiness_fails_first_and_requests_are_accepted_until_the_delay_is_over(
    client: Client, server: Server, sleep: Sleep
) -> None:
    server.handle_exit(signal.SIGTERM, None)
    assert [client.get(path).status_code for path in ("/readyz", "/healthz")] == [503, 200]
    assert client.get("/readyz").json()["status"] == "stopping"
    answer = client.post("/v1/predict", json=ASKED)
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert not server.should_exit
    assert sleep.seconds == [client.service.options.drain_delay]
    sleep.end()
    until(lambda: server.should_exit)
    error = client.refused(503, "is stopping", json=ASKED)
    assert error["code"] == "stopping"


def test_a_connection_that_is_kept_alive_is_closed_with_the_next_answer(client: Client) -> None:
    with listening(client, 20) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        answer.read()
        assert not answer.will_close
        client.service.leave()
        connection.request("GET", "/v1/adapters")  # on the same connection, without a reset
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.will_close) == (200, True)
        connection.close()


def test_ctrl_c_waits_for_no_delay_and_a_second_signal_ends_it(client: Client, sleep: Sleep) -> None:
    config = uvicorn.Config(client.app)
    server = Server(config, client.service)
    server.handle_exit(signal.SIGTERM, None)
    assert not server.should_exit
    server.handle_exit(signal.SIGTERM, None)
    assert (server.should_exit, server.force_exit) == (True, False)
    server = Server(config, client.service)
    server.handle_exit(signal.SIGINT, None)
    assert (server.should_exit, server.force_exit) == (True, False)
    server.handle_exit(signal.SIGINT, None)
    assert server.force_exit


# ------------------------------------------------------------------------------------------- device


def test_a_device_that_has_failed_for_good_makes_the_process_broken(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(client.service.dock, "run", fail)
    assert client.post("/v1/predict", json=ASKED).status_code == 500
    assert client.get("/healthz").status_code == 200  # the device still computes
    monkeypatch.setattr(device_health, "probe", fail)
    assert client.post("/v1/predict", json=ASKED).status_code == 500
    assert client.get("/healthz").status_code == 503
    assert client.refused(503, "only a restart helps", json=ASKED)["code"] == "broken"
    assert [record.message for record in caplog.records].count("device failed") == 1


def test_a_device_that_fails_in_generation_is_found_too(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    decoder = client.service.batcher._decoder
    monkeypatch.setattr(device_health, "probe", fail)
    monkeypatch.setattr(decoder._steps, "step", fail)
    decoder.turn()
    assert client.service.status == "broken"
