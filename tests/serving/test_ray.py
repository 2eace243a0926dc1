"""A fleet of two replicas answers as a single process does, whatever happens to one of them."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from live import live
from served import TEXT, labelled

from adaptdock import Client
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone

pytest.importorskip("ray", reason="Ray is not installed: pip install 'adaptdock[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

from ray_fleet import fleet, loads, replica_processes, zipf  # noqa: E402

NAMES = [f"a{number:02}" for number in range(24)]
RESIDENT = 8
"""Adapters that fit into the memory of a replica."""


@pytest.fixture(scope="module")
def file(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that no process serves yet."""
    write_file(tmp_path_factory.mktemp("file") / "file.safetensors", labelled(backbone, "SENT"))
    return tmp_path_factory.getbasetemp() / "file0" / "file.safetensors"


@pytest.fixture(scope="module")
def arguments(backbone: Backbone, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("adapters")
    for number, name in enumerate(NAMES):
        write_file(folder / f"{name}.safetensors", labelled(backbone, f"L{name}", seed=number))
    dock = Dock(backbone)
    size = dock.prepare(labelled(backbone, "L")).nbytes
    dock.close()
    return ["--adapters", folder, "--backbone", model_folder, "--device-bytes", RESIDENT * size + size // 2]


@pytest.fixture(scope="module")
def url(arguments: list[object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with fleet(*arguments, log=tmp_path_factory.mktemp("log") / "fleet.log") as url:
        yield url


def label(client: Client, name: str) -> str:
    (predicted,) = client.predict(name, [TEXT])
    return str(predicted.prediction["entities"][0]["label"])


REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/predict", {"json": {"adapter": "a03", "inputs": [TEXT, "ada"]}}),
    ("POST", "/v1/predict", {"json": {"adapter": ["a01", "a02"], "inputs": [TEXT, TEXT], "render": True}}),
    ("POST", "/v1/predict", {"json": {"adapter": "a99", "inputs": [TEXT]}}),
    ("POST", "/v1/predict", {"json": {"adapter": "a01", "inputs": [TEXT] * 300}}),
    ("POST", "/v1/predict", {"content": b"{", "headers": {"content-type": "application/json"}}),
    ("POST", "/v1/predict", {"json": {"adapter": "a01"}}),
    ("POST", "/v1/embeddings", {"json": {"model": "a01", "input": TEXT}}),
    ("GET", "/v1/models", {}),
    ("GET", "/v1/adapters/a00", {}),
    ("GET", "/healthz", {}),
    ("HEAD", "/readyz", {}),
    ("GET", "/openapi.json", {}),
    ("GET", "/", {}),
    ("GET", "/none", {}),
    ("DELETE", "/v1/predict", {}),
    ("GET", "/v1/models", {"headers": {"host": "example.org"}}),
]
CHANGING = ("request_id", "created", "counters", "versions", "docked_in")


def comparable(answer: httpx2.Response) -> Any:
    """Return status, type and body, without what differs between two processes or two moments."""
    kind = answer.headers.get("content-type")
    if kind != "application/json" or not answer.content:
        return answer.status_code, kind, answer.content
    body = answer.json()
    for entry in [body, *(body.get("data") or [])]:
        for name in CHANGING:
            entry.pop(name, None)
    return answer.status_code, kind, body


def test_every_route_answers_as_that_of_a_single_process(url: str, arguments: list[object], tmp_path: Path) -> None:
    with live(*arguments, "--state", tmp_path / "state", log=tmp_path / "log") as single:
        for method, path, request in REQUESTS:
            answers = [comparable(httpx2.request(method, f"{address}{path}", **request)) for address in (single, url)]
            assert answers[0] == answers[1], path


def test_a_change_by_one_replica_holds_for_the_next_request_to_any(url: str, file: Path) -> None:
    with Client(url) as client:
        assert client.push("a05", file).version == 2
        assert {label(client, "a05") for _ in range(4)} == {"SENT"}
        bodies = [{"adapter": ["a05", "a06"], "inputs": [TEXT, TEXT]}] * 20  # no header: any replica
        answers = [httpx2.post(f"{url}/v1/predict", json=body).json()["predictions"] for body in bodies]
        assert {tuple(predicted["version"] for predicted in answer) for answer in answers} == {(2, 1)}
        assert client.rollback("a05").version == 1
        assert {label(client, "a05") for _ in range(4)} == {"La05"}


@pytest.mark.filterwarnings("ignore")  # Ray and its dependencies warn at their import
def test_the_application_for_serve_run_has_the_flags_of_adapt_serve(tmp_path: Path) -> None:
    from adaptdock.serving.ray import app

    assert app({"adapters": str(tmp_path), "device-bytes": "9", "dtype": "bfloat16", "replicas": "3"}) is not None
    for settings, problem in (
        ({"adapters": "a", "replicas": 0}, "a range such as 2-8"),
        ({"adapters": "a", "prot": 1}, "prot"),
        ({}, "adapters or state is needed"),
        ({"adapters": "a", "label-file": "b"}, "one process"),
    ):
        with pytest.raises(UsageError, match=problem):
            app(settings)


def test_requests_for_an_adapter_go_to_a_replica_that_holds_it(url: str) -> None:
    """Half of the adapters fit into both replicas, so random routing reads files again and again."""
    names = zipf(NAMES, 400)
    counts = []
    with Client(url) as client:
        for route in (lambda name: name, lambda name: [name]):  # a list of names has no header
            before = sum(loads(url).values())
            for name in names:
                (predicted,) = client.predict(route(name), [TEXT])
                assert predicted.prediction["entities"][0]["label"] == f"L{name}"
            counts.append(sum(loads(url).values()) - before)
    assert counts[0] < 0.7 * counts[1], counts


def test_a_replica_that_is_killed_loses_no_request_and_gives_no_wrong_answer(url: str) -> None:
    answers: list[tuple[str, str]] = []
    lost: list[Exception] = []

    def ask(seed: int) -> None:
        with Client(url, retries=4) as client:
            for name in zipf(NAMES, 100, seed):
                try:
                    answers.append((name, label(client, name)))
                except Exception as error:
                    lost.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    while len(answers) < 100:
        time.sleep(0.01)
    os.kill(random.choice(replica_processes()), signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert lost == []
    assert len(answers) == 400
    assert [answer for answer in answers if answer[1] != f"L{answer[0]}"] == []
    assert len(loads(url)) == 2  # another has taken its place


def test_a_canary_gets_its_share_in_all_replicas_and_no_answer_is_of_another_version(url: str, file: Path) -> None:
    """Requests without the header go to any replica, before, during and after the change to the new version."""
    answers: list[tuple[int, str]] = []
    enough = threading.Event()

    def ask(client: httpx2.Client) -> tuple[int, str]:
        body = {"adapter": ["a07"], "inputs": [TEXT]}
        (predicted,) = client.post(f"{url}/v1/predict", json=body, timeout=60).json()["predictions"]
        return predicted["version"], predicted["prediction"]["entities"][0]["label"]

    def flood() -> None:
        with httpx2.Client() as client:
            while not enough.is_set():
                answers.append(ask(client))

    with Client(url) as client, httpx2.Client() as plain:
        client.push("a07", file, activate=False)
        assert {ask(plain) for _ in range(20)} == {(1, "La07")}
        client.split("a07", {1: 3, 2: 1})
        canary = [ask(plain) for _ in range(200)]
        assert set(canary) == {(1, "La07"), (2, "SENT")}
        assert 20 < canary.count((2, "SENT")) < 90
        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        client.load("a07", 2)
        after = [ask(plain) for _ in range(40)]
        enough.set()
        for thread in threads:
            thread.join()
        assert set(after) == {(2, "SENT")}
        assert set(answers) <= {(1, "La07"), (2, "SENT")}


def test_any_replica_shows_the_adapters_of_all(url: str) -> None:
    with Client(url) as client:
        for name in ("a11", "a12", "a13"):
            label(client, name)
        end = time.monotonic() + 60
        while True:
            listings = [httpx2.get(f"{url}/v1/adapters").json() for _ in range(6)]
            sums = {sum(entry["counters"]["requests"] for entry in listing["adapters"]) for listing in listings}
            processes = [{process["process"] for process in listing["processes"]} for listing in listings]
            if len(sums) == 1 and all(len(names) == 2 for names in processes):
                break
            assert time.monotonic() < end, (sums, processes)
            time.sleep(1)
        assert all(names == processes[0] for names in processes)


def test_a_fleet_grows_under_load_up_to_its_greatest_number(arguments: list[object], tmp_path: Path) -> None:
    others = set(replica_processes())
    with fleet(*arguments, "--batch-rows", 1, log=tmp_path / "log", replicas="1-2") as url:
        assert len(set(replica_processes()) - others) == 1
        enough = threading.Event()

        def ask() -> None:
            with Client(url) as client:
                while not enough.is_set():
                    client.predict("a00", [TEXT] * 8)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        try:
            end = time.monotonic() + 150
            while len(set(replica_processes()) - others) < 2:
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.5)
        finally:
            enough.set()
            for thread in threads:
                thread.join()
        assert len(loads(url)) == 2
