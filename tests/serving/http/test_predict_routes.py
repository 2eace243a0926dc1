"""Predictions over HTTP are those of the library, whoever else asks at the same time."""

import threading
from pathlib import Path
from typing import Any

import pytest
from builders import build_adapter
from served import TEXT, Client, serving

from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone

TEXTS = ["ada lives in rome", "bob", "", "x " * 400]
NAMES = ["lora", "prefix", "bottleneck", "kinds", "score"]


@pytest.fixture(scope="module")
def mixed(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of three methods and three tasks, with random weights."""
    folder = tmp_path_factory.mktemp("mixed")
    for method in NAMES[:3]:
        write_file(folder / f"{method}.safetensors", build_adapter(backbone, method))
    write_file(folder / "kinds.safetensors", build_adapter(backbone, "lora", task="classification"))
    write_file(folder / "score.safetensors", build_adapter(backbone, "ia3", task="intent", labels=("a", "b", "c")))
    return folder


@pytest.fixture(scope="module")
def expected(backbone: Backbone, mixed: Path) -> dict[str, Any]:
    dock = Dock(backbone)
    predictions = {name: dock.predict(dock.load(mixed / f"{name}.safetensors", name), TEXTS) for name in NAMES}
    dock.close()
    return predictions


def test_an_answer_is_what_the_library_predicts(backbone, mixed, expected) -> None:
    with serving(backbone, adapters=str(mixed)) as client:
        for name in NAMES:
            answers = client.ask(name, *TEXTS)
            assert [answer["prediction"] for answer in answers] == expected[name]
            assert {(answer["adapter"], answer["version"]) for answer in answers} == {(name, 1)}


def test_inputs_of_one_request_may_name_an_adapter_each(backbone, mixed, expected) -> None:
    with serving(backbone, adapters=str(mixed)) as client:
        answers = client.ask(NAMES[:4], *TEXTS)
    assert [answer["prediction"] for answer in answers] == [
        expected[name][place] for place, name in enumerate(NAMES[:4])
    ]


def test_many_who_ask_at_once_share_batches_and_get_their_own_answers(backbone, mixed, expected) -> None:
    wrong: list[Any] = []
    with serving(backbone, adapters=str(mixed), max_wait=20) as client:

        def ask(number: int) -> None:
            for step in range(8):
                name, place = NAMES[(number + step) % 5], (number * 3 + step) % 4
                prediction = client.ask(name, TEXTS[place])[0]["prediction"]
                if prediction != expected[name][place]:
                    wrong.append((name, place, prediction))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = client.service.metrics.registry.get_sample_value("adaptdock_batch_rows_sum")
        batches = client.service.metrics.registry.get_sample_value("adaptdock_batch_rows_count")
    assert wrong == []
    assert rows is not None
    assert batches is not None
    assert rows / batches > 1.5


def test_batches_of_one_request_are_computed_side_by_side(backbone, folder, monkeypatch) -> None:
    meeting = threading.Barrier(2, timeout=30)
    with serving(backbone, adapters=str(folder), workers=2, batch_tokens=1) as client:
        dock = client.service.dock
        logits = dock.run

        def met(*arguments: Any) -> Any:
            meeting.wait()
            return logits(*arguments)

        monkeypatch.setattr(dock, "run", met)
        assert len(client.ask("red", TEXT, TEXT)) == 2


def test_a_stack_is_answered_by_its_upper_adapter(client: Client, backbone: Backbone, folder: Path) -> None:
    dock = Dock(backbone)
    for name in ("red", "green"):
        dock.load(folder / f"{name}.safetensors", name)
    expected = dock.predict("red+green", [TEXT])
    dock.close()
    assert client.ask("red+green", TEXT) == [{"adapter": "green", "version": 1, "prediction": expected[0]}]


def test_an_input_of_ten_thousand_words_is_answered(client: Client) -> None:
    (answer,) = client.ask("red", "ada " * 10_000)
    assert len(answer["prediction"]["text"]) == 40_000


def test_health_and_readiness_are_told(client: Client) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").json() == {"status": "ok", "adapters": 3, "waiting": 0}


def test_adapters_are_listed_with_their_counters_and_cards(client: Client) -> None:
    client.ask("red", TEXT, TEXT)
    listed = client.get("/v1/adapters").json()
    assert [adapter["name"] for adapter in listed["adapters"]] == ["blue", "green", "red"]
    red = listed["adapters"][2]
    assert red["counters"]["requests"] == 2
    assert red["counters"]["errors"] == 0
    assert red["versions"][0]["tier"] == "device"
    detail = client.get("/v1/adapters/red").json()
    assert detail["card"]["task"]["name"] == "ner"
    assert detail["abilities"] == ["predict"]


def test_metrics_have_a_series_for_each_adapter(client: Client) -> None:
    client.ask(["red", "blue"], TEXT, TEXT)
    client.refused(422, json={"adapter": "red", "inputs": [3]})
    text = client.get("/metrics").text
    for line in (
        'adaptdock_requests_total{adapter="red"} 2.0',
        'adaptdock_requests_total{adapter="blue"} 1.0',
        'adaptdock_errors_total{adapter="red"} 1.0',
        'adaptdock_version{adapter="green"} 1.0',
        'adaptdock_latency_seconds_count{adapter="red"} 2.0',
    ):
        assert line in text
    assert 'adaptdock_resident_bytes{adapter="red"} 0.0' not in text


def test_no_text_of_a_request_becomes_a_series_or_a_line_of_the_metrics(client: Client) -> None:
    names = lambda: {line.split(" ")[0] for line in client.get("/metrics").text.splitlines()}  # noqa: E731
    client.ask("red", TEXT)
    client.refused(404, json={"adapter": "unknown", "inputs": [TEXT]})
    before = names()
    for number in range(20):
        name = f'evil{number}"}} 1\nadaptdock_requests_total{{adapter="red'
        client.post("/v1/predict", json={"adapter": name, "inputs": [TEXT]}, headers={"x-request-id": f"id{number}"})
    assert names() == before
