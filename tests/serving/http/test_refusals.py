"""What bad requests get: one clear answer each, while others are answered."""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from served import TEXT, Client, held, listening, serving, until

from adaptdock.errors import DataError, UsageError
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.access_tokens import new_token, read_tokens
from adaptdock.serving.scheduling.fairness import FairQueues

ASKED = {"adapter": "red", "inputs": [TEXT]}
JSON = {"content-type": "application/json"}


def test_a_wrong_field_is_named(client: Client) -> None:
    assert client.refused(422, "Field required", json={"adapter": "red"})["param"] == "inputs"
    assert client.refused(422, json={**ASKED, "inputs": []})["param"] == "inputs"
    assert client.refused(422, json={**ASKED, "input": 3})["param"] == "input"
    assert client.refused(422, "tagged", json={**ASKED, "inputs": [TEXT, 3]})["param"] == "inputs.1"
    assert client.refused(422, json={**ASKED, "timeout": 0})["param"] == "timeout"
    client.refused(422, "2 adapters for 1 inputs", json={**ASKED, "adapter": ["red", "green"]})


def test_an_unknown_adapter_is_answered_with_names_like_it(client: Client) -> None:
    error = client.refused(404, "did you mean green", json={**ASKED, "adapter": "greem"})
    assert (error["code"], error["nearest"]) == ("unknown_adapter", ["green", "red"])
    client.refused(404, method="get", path="/v1/adapters/reed")


def test_an_alias_of_an_adapter_that_is_gone_is_named_with_it(client: Client) -> None:
    assert client.put("/v1/aliases/mood", json={"target": "red"}).status_code == 200
    assert client.delete("/v1/adapters/red").status_code == 204
    error = client.refused(404, "unknown adapter 'red (of the alias mood)'", json={**ASKED, "adapter": "mood"})
    assert "mood" not in error["nearest"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/page/page.js/", "/v1/adapters/"])
def test_a_path_without_a_route_is_named_and_not_redirected(client: Client, path: str) -> None:
    client.refused(404, f"Not Found: GET {path}", method="get", path=path)
    client.refused(405, "Method Not Allowed: DELETE /v1/predict", method="delete")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"adapter": "red", "inputs": [', "not JSON"),
        (b'{"adapter": "red", "inputs": ["\xff"]}', "not valid UTF-8"),
        (b'{"adapter": "red", "inputs": ["\\ud800"]}', "surrogate"),
        (b'{"adapter": "red", "inputs": [NaN]}', "NaN is not valid JSON"),
        (b'{"adapter": "red", "inputs": [1e999]}', "out of range"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_refused_before_anything_reads_it(client: Client, body: bytes, words: str) -> None:
    client.refused(400, words, content=body, headers=JSON)
    assert client.label("red") == "RED"


def test_another_content_type_is_refused(client: Client) -> None:
    client.refused(400, "application/json", content=b"<a/>", headers={"content-type": "text/xml"})


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", ".hidden", "a%00b", "a+b", "x" * 129, "http:%2f%2fhost%2fa"]
)
def test_a_name_is_never_a_path_or_an_address(client: Client, name: str, folder: Path) -> None:
    answer = client.put(f"/v1/adapters/{name}", json={})
    assert answer.status_code in (404, 405, 422), answer.text
    answer = client.put(f"/v1/adapters/{name}/file", content=b"x", headers={"content-type": "application/octet-stream"})
    assert answer.status_code in (400, 404, 405, 422), answer.text
    assert sorted(path.name for path in folder.parent.iterdir()) == ["adapters"]


def test_limits_on_bodies_inputs_and_tokens(backbone: Backbone, folder: Path) -> None:
    with serving(backbone, adapters=str(folder), max_body=2000, max_inputs=3, max_tokens=100) as client:
        client.refused(413, "2,000 bytes", json={**ASKED, "inputs": ["x" * 3000]})
        client.refused(413, "at most 3", json={**ASKED, "inputs": ["a"] * 4})
        client.refused(413, "at most 100 are read", json={**ASKED, "inputs": ["a " * 120]})
        assert client.label("red") == "RED"


def test_too_much_is_answered_with_when_to_come_back_and_no_adapter_starves_another(
    backbone: Backbone, folder: Path
) -> None:
    with serving(backbone, adapters=str(folder), queue=8, queue_per_adapter=4) as client:
        threads = [threading.Thread(target=client.ask, args=("red", TEXT, TEXT)) for _ in range(2)]
        threads.append(threading.Thread(target=client.ask, args=("green", TEXT)))
        with held(client):
            for thread in threads[:2]:
                thread.start()
            until(lambda: client.service.batcher.waiting == 4)
            answer = client.post("/v1/predict", json=ASKED)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            threads[2].start()
            until(lambda: client.service.batcher.waiting == 5)
        for thread in threads:
            thread.join()


def test_a_request_that_is_late_is_given_up(client: Client) -> None:
    with held(client):
        started = time.monotonic()
        client.refused(504, "within 0.2 s", json={**ASKED, "timeout": 0.2})
        assert time.monotonic() - started < 5
    assert client.label("red") == "RED"


def test_one_input_s_trouble_is_its_own(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    before = client.service.dock.run

    def broken(rows: Any, features: Any) -> Any:
        if any(row[-1].card.name == "prefix" for row in rows):
            raise RuntimeError("a row that cannot be computed")
        return before(rows, features)

    monkeypatch.setattr(client.service.dock, "run", broken)
    monkeypatch.setattr(client.service.batcher, "options", client.service.options.model_copy(update={"max_wait": 300}))
    statuses: dict[str, int] = {}

    def ask(name: str) -> None:
        statuses[name] = client.post("/v1/predict", json={"adapter": name, "inputs": [TEXT]}).status_code

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("red", "green", "blue")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {"red": 200, "green": 500, "blue": 200}


# ------------------------------------------------------------------------------------------- tokens


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    return {scope: new_token(tmp_path / "tokens.txt", scope, scope) for scope in ("predict", "admin")}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_tokens_open_what_their_scope_covers(
    backbone: Backbone, folder: Path, tmp_path: Path, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens.txt"
    with (
        caplog.at_level("INFO", "adaptdock.serving"),
        serving(backbone, read_tokens(file), adapters=str(folder), tokens=str(file), host="0.0.0.0") as client,
    ):
        assert client.get("/healthz").status_code == 200
        for path in ("/v1/adapters", "/metrics", "/v1/models", "/elsewhere"):
            client.refused(401, "a token is needed", method="get", path=path)
        for wrong in ("adapt_wrong", "", "é"):
            client.refused(401, json=ASKED, headers={"authorization": f"Bearer {wrong}".encode()})
        client.refused(401, json=ASKED, headers={"authorization": secrets["predict"]})
        assert client.post("/v1/predict", json=ASKED, headers=bearer(secrets["predict"])).status_code == 200
        client.refused(403, "scope admin", path="/v1/adapters/red/pin", headers=bearer(secrets["predict"]))
        assert client.post("/v1/adapters/red/pin", headers=bearer(secrets["admin"])).status_code == 200
        assert client.post("/v1/predict", json=ASKED, headers=bearer(secrets["admin"])).status_code == 200
    said = json.dumps([record.__dict__.get("fields", {}) for record in caplog.records]) + caplog.text
    assert "predict" in said
    assert not [secret for secret in (*secrets.values(), TEXT) if secret in said]


def test_a_token_is_kept_as_a_hash_and_a_damaged_line_is_named(tmp_path: Path, secrets: dict[str, str]) -> None:
    file = tmp_path / "tokens.txt"
    assert file.stat().st_mode & 0o077 == 0
    assert secrets["admin"] not in file.read_text()
    token = read_tokens(file).find(secrets["admin"])
    assert token is not None
    assert (token.name, token.allows("predict")) == ("admin", True)
    file.write_text(file.read_text() + "broken line\n")
    with pytest.raises(DataError, match=r"tokens.txt:3: a line of tokens"):
        read_tokens(file)
    with pytest.raises(UsageError, match="unknown scope 'root'"):
        new_token(file, "root")


def test_other_machines_are_let_in_with_tokens_only() -> None:
    with pytest.raises(ValueError, match="can be reached from other machines"):
        ServingOptions(adapters="a", host="0.0.0.0")


def test_a_page_from_elsewhere_cannot_use_a_process_without_tokens(client: Client) -> None:
    client.refused(403, "this machine alone", json=ASKED, headers={"host": "evil.example"})
    client.refused(403, json=ASKED, headers={"origin": "https://evil.example"})
    client.refused(403, json=ASKED, headers={"host": "testserver"})
    assert client.get("/healthz", headers={"host": "127.0.0.1:8000"}).status_code == 200


def test_answers_have_secure_headers_and_the_request_s_id(client: Client) -> None:
    answer = client.get("/healthz", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert len(client.get("/healthz", headers={"x-request-id": "a b\\n"}).headers["x-request-id"]) == 32


# ---------------------------------------------------------------------------------- over a real socket


def test_a_head_that_does_not_come_is_waited_for_no_longer(client: Client) -> None:
    with (
        listening(client) as port,
        socket.create_connection(("127.0.0.1", port), 10) as slow,
        socket.create_connection(("127.0.0.1", port), 10),
    ):
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n")
        assert client.label("red") == "RED"
        assert slow.recv(100) == b""


def test_a_body_that_is_sent_in_part_is_waited_for_no_longer(backbone: Backbone, folder: Path) -> None:
    with serving(backbone, adapters=str(folder), receive_timeout=0.3) as client, listening(client, 5) as port:
        with socket.create_connection(("127.0.0.1", port), 10) as slow:
            head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\n{"
            slow.sendall(head)
            assert b" 408 " in slow.recv(1000).split(b"\r\n")[0]
        assert client.label("red") == "RED"


def test_a_client_that_goes_away_is_computed_for_no_longer(client: Client) -> None:
    body = json.dumps(ASKED).encode()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with listening(client, 5) as port, held(client):
        with socket.create_connection(("127.0.0.1", port), 10) as gone:
            gone.sendall(head + body)
            until(lambda: client.service.batcher.waiting == 1)
        until(lambda: client.service.batcher.waiting == 0)
    assert client.service.catalog.served("red").current.users == 0
    tally = client.service.metrics.tally("red")
    assert (tally.requests, tally.errors, tally.answered) == (1, 0, 0)
    assert 'adaptdock_abandoned_total{adapter="red"} 1.0' in client.get("/metrics").text
    assert client.label("red") == "RED"


# ------------------------------------------------------------------------------------------- fairness


def test_every_queue_gets_its_share_of_tokens_whatever_stands_in_the_others() -> None:
    queues: FairQueues[tuple[str, int]] = FairQueues(lambda item: item[1], 10)
    for _ in range(50):
        queues.put("busy", ("busy", 10))
    for _ in range(4):
        queues.put("calm", ("calm", 5))
    queues.put("long", ("long", 30))
    taken = queues.take(90)
    assert sum(tokens for _, tokens in taken) <= 90
    assert [name for name, _ in taken].count("calm") == 4
    assert ("long", 30) in taken
    assert queues.count == len(queues) == 55 - len(taken)
    rest = []
    while queues:
        rest += queues.take(1)
    assert len(rest) + len(taken) == 55
    assert queues.tokens == 0
