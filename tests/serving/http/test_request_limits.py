"""A client is a token: each has its share of the requests, and the limits of its line in the tokens file."""

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import TEXT, Client, held, serving, until

from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.http import loop_lag
from adaptdock.serving.http.access_tokens import new_token, read_tokens
from adaptdock.serving.http.request_limits import Bucket

ASKED = {"adapter": "red", "inputs": [TEXT]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.txt"


@pytest.fixture
def secrets(file: Path) -> dict[str, str]:
    return {name: new_token(file, "predict", name) for name in ("greedy", "modest")}


@pytest.fixture
def client(backbone: Backbone, folder: Path, file: Path, secrets: dict[str, str]) -> Iterator[Client]:
    with serving(backbone, read_tokens(file), adapters=str(folder), tokens=str(file), connections=2, queue=4) as client:
        yield client


def limit(file: Path, name: str, limits: str) -> None:
    """Append limits to the line of a token."""
    lines = file.read_text().splitlines()
    file.write_text("".join(f"{line} {limits}\n" if line.startswith(name) else f"{line}\n" for line in lines))


def status(client: Client, secret: str, inputs: int = 1, adapter: str = "red") -> int:
    body = {"adapter": adapter, "inputs": [TEXT] * inputs}
    return client.post("/v1/predict", json=body, headers={"authorization": f"Bearer {secret}"}).status_code


def test_a_client_that_has_all_requests_leaves_another_its_share(client: Client, secrets: dict[str, str]) -> None:
    threads = [threading.Thread(target=status, args=(client, secrets["greedy"])) for _ in range(2)]
    answers: list[int] = []
    with held(client):
        for thread in threads:
            thread.start()
        until(lambda: client.service.batcher.waiting == 2)
        assert status(client, secrets["greedy"]) == 429
        threads.append(threading.Thread(target=lambda: answers.append(status(client, secrets["modest"]))))
        threads[-1].start()
        until(lambda: client.service.batcher.waiting == 3)
        assert status(client, secrets["modest"]) == 429  # its share of 2 is 1
    for thread in threads:
        thread.join()
    assert answers == [200]


def test_a_client_that_fills_the_queue_leaves_another_its_share(client: Client, secrets: dict[str, str]) -> None:
    greedy = threading.Thread(target=status, args=(client, secrets["greedy"], 4))
    answers: list[int] = []
    with held(client):
        greedy.start()
        until(lambda: client.service.batcher.waiting == 4)
        assert status(client, secrets["greedy"], adapter="green") == 429
        assert status(client, secrets["modest"], 3) == 429  # its share of 4 is 2
        modest = threading.Thread(target=lambda: answers.append(status(client, secrets["modest"], 2)))
        modest.start()
        until(lambda: client.service.batcher.waiting == 6)
    greedy.join()
    modest.join()
    assert answers == [200]


def test_a_token_has_the_limits_of_its_line_from_the_next_request_on(
    client: Client, file: Path, secrets: dict[str, str]
) -> None:
    limit(file, "greedy", "rate=0.001")
    assert [status(client, secrets["greedy"]) for _ in range(3)] == [200, 429, 429]
    answer = client.get("/v1/adapters", headers={"authorization": f"Bearer {secrets['greedy']}"})
    assert answer.json()["error"]["message"].startswith(
        "the token greedy may send 0.001 requests per second: try again"
    )
    assert 900 < int(answer.headers["retry-after"]) <= 1000
    assert status(client, secrets["modest"]) == 200
    limit(file, "modest", "concurrent=1")
    thread = threading.Thread(target=status, args=(client, secrets["modest"]))
    with held(client):
        thread.start()
        until(lambda: client.service.batcher.waiting == 1)
        assert status(client, secrets["modest"]) == 429
    thread.join()
    assert status(client, secrets["modest"]) == 200
    text = client.get("/metrics", headers={"authorization": f"Bearer {secrets['modest']}"}).text
    assert 'adaptdock_refused_total{limit="rate"} 3.0' in text
    assert 'adaptdock_refused_total{limit="concurrent"} 1.0' in text


def test_a_late_event_loop_refuses_requests_unless_few_are_running_and_probes_are_answered(
    client: Client, secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        client.service.lag.measure(1.0)
    monkeypatch.setattr(client.service.lag, "measure", lambda lag: None)
    assert status(client, secrets["greedy"]) == 200  # a single request is not what delays the loop
    monkeypatch.setattr(loop_lag, "BUSY", 0)
    assert status(client, secrets["greedy"]) == 429
    assert client.get("/readyz").status_code == 200
    text = client.get("/metrics", headers={"authorization": f"Bearer {secrets['modest']}"}).text
    assert 'adaptdock_refused_total{limit="lag"} 1.0' in text


def test_one_stall_of_the_event_loop_is_no_overload() -> None:
    lag = loop_lag.LoopLag()
    lag.measure(0.8)
    assert not lag.excessive(1000)
    lag.measure(0.8)
    assert (lag.excessive(1000), lag.excessive(loop_lag.BUSY - 1)) == (True, False)
    for _ in range(10):
        lag.measure(-0.1)
    assert not lag.excessive(1000)


def test_a_token_may_send_the_requests_of_a_second_at_once() -> None:
    bucket = Bucket(3.0, 0.0)
    assert [bucket.take(3, 0.0) for _ in range(4)] == [0, 0, 0, pytest.approx(1 / 3)]
    assert bucket.take(3, 0.4) == 0
    assert bucket.take(3, 0.4) > 0
    assert [bucket.take(3, 100.0) for _ in range(4)][:3] == [0, 0, 0]
    assert bucket.take(3, 100.0) > 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ("speed=1", "unknown limit 'speed=1'; there are rate=N and concurrent=N"),
        ("rate", "'rate' is not a limit: rate is a number above 0"),
        ("rate=0", "rate is a number above 0"),
        ("rate=1e999", "rate is a number above 0"),
        ("concurrent=1.5", "concurrent is a whole number above 0"),
    ],
)
def test_a_limit_that_is_none_is_named(file: Path, secrets: dict[str, str], limits: str, words: str) -> None:
    limit(file, "modest", limits)
    with pytest.raises(DataError, match=r"tokens\.txt:2: ") as raised:
        read_tokens(file)
    assert words in str(raised.value)


def test_a_refused_request_is_logged_with_its_token(
    client: Client, file: Path, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    limit(file, "greedy", "rate=0.001")
    with caplog.at_level(logging.INFO, "adaptdock.serving"):
        assert [status(client, secrets["greedy"]) for _ in range(2)] == [200, 429]
    requests = [record.__dict__["fields"] for record in caplog.records if record.message == "request"]
    assert [(fields["status"], fields["token"]) for fields in requests] == [(200, "greedy"), (429, "greedy")]
    assert secrets["greedy"] not in json.dumps(requests)
