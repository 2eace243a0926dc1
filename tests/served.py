"""A serving process in this one, around a tiny backbone."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from builders import build_adapter
from starlette.testclient import TestClient

from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import AdapterFile
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.access_tokens import Tokens
from adaptdock.serving.http.app import make_app
from adaptdock.serving.http.connections import Connections
from adaptdock.serving.http.service import Service
from adaptdock.serving.http.timed_protocol import timed_protocol
from adaptdock.serving.tracing import Tracing

TEXT = "ada met bob in oslo"


def labelled(backbone: Backbone, label: str, method: str = "lora", seed: int = 0) -> AdapterFile:
    """An adapter that finds nothing but its own label, so that an answer tells who gave it."""
    made = build_adapter(backbone, method, labels=(label,), seed=seed)
    made.tensors["head.weight"].zero_()
    made.tensors["head.bias"].copy_(made.tensors["head.bias"].new_tensor([0.0, 9.0, 0.0]))
    return made


def until(reached: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for something, not longer than it may take on a busy machine."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


class Client(TestClient):
    """A client, with the service that it talks to."""

    service: Service

    def ask(self, adapter: str | list[str], *inputs: Any, **more: Any) -> Any:
        """Return the predictions, which there must be."""
        answer = self.post("/v1/predict", json={"adapter": adapter, "inputs": list(inputs), **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"]

    def label(self, adapter: str) -> str:
        """Return the label that an adapter of :func:`labelled` gives."""
        return str(self.ask(adapter, TEXT)[0]["prediction"]["entities"][0]["label"])

    def refused(self, status: int, *words: str, method: str = "post", path: str = "/v1/predict", **request: Any) -> Any:
        """Check that a request is refused in one JSON object with these words, and return what it says."""
        answer = self.request(method, path, **request)
        assert answer.status_code == status, answer.text
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        for word in words:
            assert word in answer.json()["error"]["message"]
        return answer.json()["error"]


@contextmanager
def serving(
    backbone: Backbone, known: Tokens | None = None, traces: Tracing | None = None, **options: Any
) -> Iterator[Client]:
    """Serve as long as the context is open."""
    service = Service(Dock(backbone), ServingOptions(**{"watch": 0.05, **options}), traces)
    with Client(make_app(service, known), "http://127.0.0.1", raise_server_exceptions=False) as client:
        client.service = service
        until(lambda: service.status == "ok")
        yield client
    service.dock.close()


@contextmanager
def held(client: Client) -> Iterator[None]:
    """Keep the batcher from computing while the context is open."""
    free, before = threading.Event(), client.service.dock.run

    def wait(rows: Any, features: Any) -> Any:
        free.wait(20)
        return before(rows, features)

    client.service.dock.run = wait  # type: ignore[method-assign]
    try:
        yield
    finally:
        free.set()
        until(lambda: client.service.batcher.waiting == 0)
        client.service.dock.run = before  # type: ignore[method-assign]


@contextmanager
def listening(client: Client, seconds: float = 0.5, connections: Connections | None = None) -> Iterator[int]:
    """Serve the client's service, which it begins and ends, at a port of this machine."""
    with running(make_app(client.service, Tokens()), timed_protocol(seconds, connections)) as port:
        yield port


@contextmanager
def running(app: Any, protocol: Any) -> Iterator[int]:
    """Serve an ASGI application by an HTTP protocol of uvicorn, at a port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off", log_config=None))
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield at.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
