"""While the adapters of the folder are being loaded: come back, not there is none."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import TEXT, Client, until

from adaptdock.engine.inference.dock import Dock
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.catalog.folder_watcher import Watcher
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.app import make_app
from adaptdock.serving.http.service import Service

ASKED = {"adapter": "red", "inputs": [TEXT]}
Begun = tuple[Client, threading.Event]


@pytest.fixture
def begun(backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begun]:
    """A process that looks at its folder for the first time as soon as the event is set."""
    go_on, before = threading.Event(), Watcher.look

    def look(watcher: Watcher, first: bool = False) -> None:
        go_on.wait(20)
        before(watcher, first)

    monkeypatch.setattr(Watcher, "look", look)
    service = Service(Dock(backbone), ServingOptions(adapters=str(folder), watch=0.05))
    with Client(make_app(service), "http://127.0.0.1", raise_server_exceptions=False) as client:
        client.service = service
        yield client, go_on
        go_on.set()
    service.dock.close()


REQUESTS: dict[str, Callable[[Client], dict[str, object]]] = {
    "predict": lambda client: client.refused(503, "starting", json=ASKED),
    "unknown": lambda client: client.refused(503, json={**ASKED, "adapter": "none"}),
    "version": lambda client: client.refused(503, json={**ASKED, "adapter": "red@1"}),
    "card": lambda client: client.refused(503, method="get", path="/v1/adapters/red"),
    "pin": lambda client: client.refused(503, path="/v1/adapters/red/pin"),
    "alias": lambda client: client.refused(503, method="put", path="/v1/aliases/rot", json={"target": "red"}),
    "model": lambda client: client.refused(503, method="get", path="/v1/models/red"),
    "embeddings": lambda client: client.refused(503, path="/v1/embeddings", json={"model": "red", "input": "a"}),
    "completions": lambda client: client.refused(503, path="/v1/completions", json={"model": "red", "prompt": "a"}),
}


def test_a_name_is_not_denied_before_all_adapters_are_loaded(begun: Begun) -> None:
    client, go_on = begun
    assert {name: request(client)["code"] for name, request in REQUESTS.items()} == dict.fromkeys(REQUESTS, "starting")
    assert client.post("/v1/predict", json=ASKED).headers["retry-after"] == "1"
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
    go_on.set()
    until(lambda: client.service.status == "ok")
    assert client.label("red") == "RED"
    assert client.refused(404, json={**ASKED, "adapter": "none"})["code"] == "unknown_adapter"


def test_a_start_that_failed_is_told_apart(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    client, go_on = begun
    monkeypatch.setattr(client.service.watcher, "_marks", lambda: 1 / 0)
    go_on.set()
    until(lambda: client.service.status == "broken")
    assert client.refused(503, "could not start", json=ASKED)["code"] == "broken"
    assert client.get("/healthz").status_code == 503
