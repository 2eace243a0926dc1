"""The clients and a process of its own, over HTTP on this machine."""

import asyncio
import doctest
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from live import certain, fill, live, save_writer

import adaptdock
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import AdaptError, FileError, UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.client.client import (
    AnswerError,
    AsyncClient,
    Client,
    OverloadedError,
    RequestError,
    UnreachableError,
)
from adaptdock.serving.http.access_tokens import new_token

TURNS = [{"role": "user", "content": "the cat sat"}]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return save_writer(tmp_path_factory.mktemp("writer"))


@pytest.fixture(scope="module")
def filled(writer: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("adapters"), writer)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    return {"path": str(path), **{scope: new_token(path, scope) for scope in ("predict", "admin")}}


@pytest.fixture(scope="module")
def url(
    writer: Backbone, filled: Path, tokens: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with live("--backbone", writer.id, "--adapters", filled, "--tokens", tokens["path"], log=log) as url:
        yield url


@pytest.fixture
def client(url: str, tokens: dict[str, str]) -> Iterator[Client]:
    with Client(url, tokens["admin"]) as client:
        yield client


@pytest.fixture(scope="module")
def dock(writer: Backbone, filled: Path) -> Iterator[Dock]:
    dock = Dock(writer)
    for path in filled.glob("*.safetensors"):
        dock.load(path, path.stem)
    yield dock
    dock.close()


def test_predictions_are_those_of_the_library(client: Client, dock: Dock) -> None:
    texts = ["ada sat", "the cat is in rome"]
    assert [predicted.prediction for predicted in client.predict("people", texts)] == dock.predict("people", texts)
    mixed = client.predict(["people", "topic"], texts)
    assert [(predicted.adapter, predicted.version) for predicted in mixed] == [("people", 1), ("topic", 1)]
    assert [predicted.prediction for predicted in mixed] == dock.predict(["people", "topic"], texts)
    assert client.render("entail", [["a", "b"]])[0].rendered == "[yes 1.00] a / b"
    assert client.predict("people", ["ada"])[0].rendered is None


def test_texts_and_conversations_are_continued_at_once_and_in_pieces(client: Client, dock: Dock) -> None:
    (expected,) = dock.generate("writer", ["the cat"], max_new_tokens=9)
    assert client.complete("writer", "the cat", max_tokens=9) == expected
    assert "".join(client.stream("writer", "the cat", max_tokens=9)) == expected
    (answer,) = dock.predict("writer", [{"messages": TURNS}])
    assert client.complete("writer", TURNS).strip() == answer["text"]
    pieces = list(client.stream("writer", TURNS))
    assert "".join(pieces).strip() == answer["text"]
    assert len(pieces) > 3


def test_vectors_are_those_of_the_library(client: Client, dock: Dock) -> None:
    expected = [prediction["embedding"] for prediction in dock.predict("near", ["a", "the cat"])]
    assert client.embed("near", ["a", "the cat"]) == expected


def test_adapters_are_listed_and_each_is_told_with_its_card(client: Client, writer: Backbone) -> None:
    listing = client.adapters()
    assert listing.backbone == writer.id
    assert {adapter.name: adapter.task for adapter in listing.adapters}["entail"] == "pair"
    assert {adapter.name: adapter.asks for adapter in listing.adapters}["entail"] == ["text", "second"]
    assert client.adapter("entail").card["task"]["options"]["labels"] == ["yes", "no"]


def test_versions_are_sent_gone_back_to_shared_and_unloaded(client: Client, writer: Backbone, tmp_path: Path) -> None:
    def label() -> str:
        return str(client.predict("sent", ["ada"])[0].prediction["entities"][0]["label"])

    for name in ("ONE", "TWO", "THREE"):
        write_file(tmp_path / f"{name}.safetensors", certain(writer, "ner", (name,)))
    assert client.push("sent", tmp_path / "ONE.safetensors").version == 1
    assert client.push("sent", (tmp_path / "TWO.safetensors").read_bytes()).version == 2
    assert client.push("sent", str(tmp_path / "THREE.safetensors"), activate=False).version == 2
    assert label() == "TWO"
    assert client.rollback("sent").version == 1
    assert label() == "ONE"
    assert client.load("sent", version=3).version == 3
    assert label() == "THREE"
    client.split("sent", {1: 1, 3: 0}, mirror=3)
    assert label() == "ONE"
    assert client.pin("sent").adapter == "sent"
    assert client.adapter("sent").pinned
    assert not (client.unpin("sent"), client.adapter("sent"))[1].pinned
    client.set_alias("latest", "sent@3")
    assert client.predict("latest", ["ada"])[0].version == 3
    client.delete_alias("latest")
    client.unload("sent")
    with pytest.raises(RequestError, match="unknown adapter 'sent'"):
        client.adapter("sent")
    assert client.load("people").version == 1


def test_of_two_operators_the_second_does_not_undo_the_change_of_the_first(
    client: Client, writer: Backbone, tmp_path: Path
) -> None:
    for name in ("ONE", "TWO"):
        write_file(tmp_path / f"{name}.safetensors", certain(writer, "ner", (name,)))
    assert client.push("both", tmp_path / "ONE.safetensors").warnings == []
    seen = client.adapter("both").etag
    client.predict("both", ["ada"])
    assert client.adapter("both").etag == seen, "answers are no change"
    sent = client.push("both", tmp_path / "TWO.safetensors", match=seen)
    assert sent.warnings == ["labels that answers no longer have: ONE", "new labels: TWO"]
    assert sent.etag == client.adapter("both").etag != seen
    stale: list[Callable[[], object]] = [
        lambda: client.push("both", tmp_path / "ONE.safetensors", match=seen),
        lambda: client.load("both", version=1, match=seen),
        lambda: client.rollback("both", match=seen),
        lambda: client.pin("both", match=seen),
        lambda: client.unpin("both", match=seen),
        lambda: client.split("both", {1: 1, 2: 1}, match=seen),
        lambda: client.unload("both", match=seen),
    ]
    for change in stale:
        with pytest.raises(RequestError, match=f"nothing was changed: 'both'.* its ETag is {sent.etag}") as raised:
            change()
        assert raised.value.status == 412
    assert client.adapter("both").etag == sent.etag
    client.unload("both", match=sent.etag)
    with pytest.raises(RequestError, match="it is not served"):
        client.push("both", tmp_path / "ONE.safetensors", match=sent.etag)


def test_errors_are_those_of_the_process_with_what_it_says_of_them(client: Client, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown adapter 'topik': did you mean topic") as raised:
        client.predict("topik", ["a"])
    assert isinstance(raised.value, AdaptError)
    assert (raised.value.status, raised.value.nearest, raised.value.exit_status) == (404, ["topic"], 2)
    assert raised.value.request_id
    with pytest.raises(RequestError, match="found int") as raised:
        client.predict("people", ["a", 7])
    assert (raised.value.status, raised.value.param) == (422, "inputs.1")
    with pytest.raises(RequestError, match="no completions"):
        list(client.stream("people", "a"))
    with pytest.raises(RequestError, match="not an adapter file"):
        client.push("bad", b"nothing of the kind")
    with pytest.raises(RequestError, match="cannot be used"):
        client.push("bad name", b"nothing of the kind")
    with pytest.raises(FileError, match="No such file"):
        client.push("bad", tmp_path / "none.safetensors")
    with pytest.raises(RequestError, match="no earlier version"):
        client.rollback("topic")


def test_a_name_cannot_lead_out_of_its_place(client: Client) -> None:
    with pytest.raises(RequestError) as raised:
        client.unload("../aliases/people")
    assert raised.value.status == 404
    assert client.adapter("people").version == 1


def test_a_token_is_needed_known_and_has_its_scope(
    url: str, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(url) as client, pytest.raises(RequestError, match="a token is needed") as raised:
        client.adapters()
    assert raised.value.status == 401
    with Client(url, "adapt_wrong") as client, pytest.raises(RequestError, match="not known"):
        client.adapters()
    with Client(url, tokens["predict"]) as client:
        assert client.predict("people", ["ada"])
        with pytest.raises(RequestError, match="has not the scope admin"):
            client.unload("people")
    monkeypatch.setenv("ADAPTDOCK_TOKEN", tokens["predict"])
    with Client(url) as client:
        assert client.adapters().adapters


def test_what_is_no_address_no_token_and_no_process_is_told(tmp_path: Path) -> None:
    for bad in ("nonsense", "ftp://127.0.0.1", "http://", "http://[::1"):
        with pytest.raises(UsageError, match="not an address of a serving process"):
            Client(bad)
    with pytest.raises(UsageError, match="tokens cannot have"):
        Client("http://127.0.0.1:9", "line\nbreak")
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(UnreachableError, match="cannot be reached"):
            client.adapters()
        with pytest.raises(UnreachableError, match="cannot be reached"):
            list(client.stream("a", "b"))


def test_the_client_that_does_not_wait_does_the_same(
    url: str, tokens: dict[str, str], dock: Dock, writer: Backbone, tmp_path: Path
) -> None:
    write_file(tmp_path / "late.safetensors", certain(writer, "ner", ("LATE",)))

    async def use() -> None:
        async with AsyncClient(url, tokens["admin"]) as client:
            many = await asyncio.gather(*(client.predict("people", [f"text {number}"]) for number in range(20)))
            assert [answer[0].prediction["text"] for answer in many] == [f"text {number}" for number in range(20)]
            (expected,) = dock.generate("writer", ["the cat"], max_new_tokens=9)
            assert "".join([piece async for piece in client.stream("writer", "the cat", max_tokens=9)]) == expected
            assert await client.complete("writer", "the cat", max_tokens=9) == expected
            assert len(await client.embed("near", ["a"])) == 1
            assert (await client.push("late", tmp_path / "late.safetensors")).version == 1
            assert (await client.render("late", ["ada"]))[0].rendered == "[ada|LATE]"
            await client.set_alias("later", "late")
            assert (await client.adapters()).aliases == {"later": "late"}
            await client.delete_alias("later")
            assert (await client.load("late", version=1)).version == 1
            assert (await client.split("late", {1: 1})).version == 1
            assert (await client.pin("late")).adapter == (await client.unpin("late")).adapter == "late"
            with pytest.raises(RequestError, match="no earlier version"):
                await client.rollback("late")
            await client.unload("late")
            with pytest.raises(RequestError, match="unknown adapter 'late'"):
                await client.adapter("late")
            with pytest.raises(RequestError, match="no completions"):
                [piece async for piece in client.stream("people", "a")]

    asyncio.run(use())


def test_the_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def methods(kind: type) -> dict[str, Any]:
        public = {name: value for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}
        return {name: value.__code__.co_varnames[: value.__code__.co_argcount] for name, value in public.items()}

    assert methods(Client) == methods(AsyncClient)


Answers = Callable[..., str]
Given = tuple[int, dict[str, str], bytes]
"""Status, headers and body of an answer."""


@pytest.fixture
def answers() -> Iterator[Answers]:
    """A server that answers with what it is given, one after the other, and its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(*given: Given) -> str:
        left = list(given)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = left.pop(0)
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                return

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


BUSY = (429, {"retry-after": "0"}, json.dumps({"error": {"message": "too much waits"}, "request_id": "1"}).encode())
NONE = (200, {}, b'{"backbone": "b", "adapters": [], "aliases": {}}')


def test_a_process_that_is_busy_is_asked_again_and_then_its_words_are_told(answers: Answers) -> None:
    with Client(answers(BUSY, BUSY, NONE)) as client:
        assert client.adapters().backbone == "b"
    with Client(answers(BUSY, BUSY, NONE), retries=1) as client, pytest.raises(OverloadedError, match="too much waits"):
        client.adapters()

    async def ask(url: str) -> str:
        async with AsyncClient(url) as client:
            return (await client.adapters()).backbone

    assert asyncio.run(ask(answers(BUSY, NONE))) == "b"


@pytest.mark.parametrize(
    "other",
    [
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b""),
        (302, {"location": "http://127.0.0.1:9/"}, b""),
        (502, {}, b"bad gateway"),
        (200, {"content-length": "500"}, b"{"),
        (500, {}, b'{"error": "text"}'),
    ],
)
def test_an_answer_that_is_none_of_a_process_is_told(
    answers: Answers, other: tuple[int, dict[str, str], bytes]
) -> None:
    with Client(answers(other), timeout=2) as client, pytest.raises(AdaptError) as raised:
        client.adapters()
    assert "127.0.0.1" in str(raised.value) or "does not come from a serving process" in str(raised.value)


def events(*texts: str, end: bytes = b"data: [DONE]\n\n") -> Given:
    payloads = [json.dumps({"choices": [{"text": text}]}, ensure_ascii=False) for text in texts]
    return (
        200,
        {"content-type": "text/event-stream"},
        "".join(f"data: {payload}\n\n" for payload in payloads).encode() + end,
    )


def test_a_stream_is_read_by_its_line_feeds_and_has_to_end(answers: Answers) -> None:
    odd = ["a\u2028b", "\x85", "\r\n", "🚀", "\x0c"]
    with Client(answers(events(*odd))) as client:
        assert list(client.stream("a", "b")) == odd
    broken = b'data: {"error": {"message": "given up", "type": "timeout_error"}}\n\ndata: [DONE]\n\n'
    with Client(answers(events("a", end=b""), events("a", end=broken))) as client:
        with pytest.raises(UnreachableError, match="broke off"):
            list(client.stream("a", "b"))
        with pytest.raises(AnswerError, match="given up"):
            list(client.stream("a", "b"))


def test_the_clients_are_public_names_that_import_no_torch() -> None:
    assert adaptdock.Client is Client
    assert adaptdock.AsyncClient is AsyncClient
    code = (
        "import sys; from adaptdock import Client; assert not {'torch', 'transformers', 'fastapi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_the_example_of_a_client_runs(
    name: str,
    url: str,
    tokens: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ADAPTDOCK_TOKEN", tokens["predict"])
    [example] = doctest.DocTestFinder(recurse=False).find(getattr(adaptdock, name), name, globs={})
    example.globs["url"] = url
    failures = doctest.DocTestRunner().run(example)
    assert failures.failed == 0, capsys.readouterr().out
    assert failures.attempted
