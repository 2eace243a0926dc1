"""While the event loop is late, complete requests of clients with their share are refused from their first bytes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import TEXT, Client, serving

from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.http.access_tokens import Tokens, new_token, read_tokens
from adaptdock.serving.http.load_shedding import LoadShedding
from adaptdock.serving.http.loop_lag import BUSY

BODY = json.dumps({"adapter": "red", "inputs": [TEXT]}).encode()


@pytest.fixture
def client(backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    with serving(backbone, adapters=str(folder)) as client:
        for _ in range(20):
            client.service.lag.measure(1.0)
        monkeypatch.setattr(client.service.lag, "measure", lambda lag: None)
        yield client


def request(secret: str = "", method: str = "POST", path: str = "/v1/predict", body: bytes = BODY) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n"
    head += f"Authorization: Bearer {secret}\r\n" if secret else ""
    return head.encode() + b"\r\n" + body


def test_a_complete_request_gets_429_with_retry_after_and_a_json_error(client: Client) -> None:
    client.service.lag.requests[""] = BUSY
    response = LoadShedding(client.service, Tokens()).refusal(request())
    assert response is not None
    head, _, content = response.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "http/1.1 429 too many requests"
    assert {"connection: close", f"content-length: {len(content)}", "x-content-type-options: nosniff"} <= set(lines)
    assert any(line.startswith("retry-after: ") for line in lines)
    assert json.loads(content)["error"]["code"] == "busy"
    assert f"x-request-id: {json.loads(content)['request_id']}" in lines
    assert 'adaptdock_refused_total{limit="lag"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    "data",
    [
        request(method="GET", path="/readyz"),
        request(method="GET", path="/v1/adapters"),
        request(body=BODY[:-1]),
        request() + request(),
        request()[:40],
        b"POST /v1/predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["probe", "list", "incomplete body", "pipelined", "incomplete head", "chunked"],
)
def test_others_are_read(client: Client, data: bytes) -> None:
    client.service.lag.requests[""] = BUSY
    assert LoadShedding(client.service, Tokens()).refusal(data) is None


def test_a_client_below_its_share_and_an_unknown_token_are_read(client: Client, tmp_path: Path) -> None:
    greedy, modest = (new_token(tmp_path / "tokens.txt", "predict", name) for name in ("greedy", "modest"))
    shedding = LoadShedding(client.service, read_tokens(tmp_path / "tokens.txt"))
    client.service.lag.requests["greedy"] = BUSY
    refused = [shedding.refusal(request(secret)) is not None for secret in (greedy, modest, "unknown", "")]
    assert refused == [True, False, False, False]


def test_few_running_requests_are_no_overload(client: Client) -> None:
    client.service.lag.requests[""] = BUSY - 1
    assert LoadShedding(client.service, Tokens()).refusal(request()) is None
