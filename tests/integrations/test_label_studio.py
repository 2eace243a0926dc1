"""The ML backend of examples/integrations/label-studio, judged by Label Studio's own library where it is installed."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptdock import Dock, train

pytest.importorskip("defusedxml", reason="defusedxml is not installed")
SOURCE = Path(__file__).parents[2] / "examples" / "integrations" / "label-studio" / "src"
SPANS = """<View><Labels name="tag" toName="body"><Label value="PER"/><Label value="LOC"/></Labels>
<Text name="body" value="$letter"/></View>"""
CHOICES = """<View><Text name="body" value="$letter"/><Choices name="topic" toName="body">
<Choice value="a"/><Choice value="b"/></Choices></View>"""
TASKS = [{"id": 1, "data": {"letter": "😀 ada met bob in oslo"}}, {"id": 2, "data": {"letter": "nothing here"}}]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SOURCE))
    return importlib.import_module("adaptdock_label_studio.backend")


@pytest.fixture(scope="module")
def dock(backbone: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dock]:
    folder = tmp_path_factory.mktemp("runs")
    classes = [{"text": f"{word} runs", "label": label} for word, label in [("ada", "a"), ("bob", "b")] * 6]
    few = {"backbone": backbone, "learning_rate": 1e-2}
    with Dock(backbone) as dock:  # other tests use the backbone too
        dock.load(train("ner", data=data, folder=folder / "ner", epochs=4, **few).file, "ner")
        dock.load(train("classification", data=classes, folder=folder / "classes", epochs=1, **few).file, "classes")
        yield dock


def test_predictions_are_what_the_labelling_interface_takes(module: Any, dock: Dock) -> None:
    predictions = {
        config: module.Backend(dock, name).predict(TASKS, config)
        for name, config in (("ner", SPANS), ("classes", CHOICES))
    }
    entities = dock.predict("ner", [TASKS[0]["data"]["letter"]])[0]["entities"]
    results = predictions[SPANS][0]["result"]
    assert entities
    assert [(part["value"]["text"], part["value"]["labels"]) for part in results] == [
        (entity["text"], [entity["label"]]) for entity in entities
    ]
    assert [part["value"]["start"] for part in results] == [
        entity["start"] + (entity["start"] > 0)
        for entity in entities  # the emoji at 0 has two units of UTF-16
    ]
    assert {part["from_name"] for part in results} == {"tag"}
    assert predictions[SPANS][0]["score"] == min(entity["score"] for entity in entities)
    assert predictions[CHOICES][0]["result"][0]["value"]["choices"][0] in ("a", "b")
    interfaces = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed")
    for config, rows in predictions.items():
        judge = interfaces.LabelInterface(config)
        for prediction in rows:
            assert judge.validate_prediction(prediction, return_errors=True) == []


def test_the_addresses_that_label_studio_calls_answer(module: Any, dock: Dock) -> None:
    testclient = pytest.importorskip("fastapi.testclient", reason="httpx is not installed")
    with testclient.TestClient(module.application(module.Backend(dock, "ner"))) as client:
        assert client.get("/health").json()["status"] == "UP"
        assert client.post("/setup", json={"project": "1", "schema": SPANS}).json() == {"model_version": "ner 1"}
        answer = client.post("/predict", json={"tasks": TASKS, "label_config": SPANS}).json()
        assert [len(row["result"]) for row in answer["results"]] == [
            len(row["entities"]) for row in dock.predict("ner", [task["data"]["letter"] for task in TASKS])
        ]
        refused = client.post("/predict", json={"tasks": TASKS, "label_config": CHOICES})
        assert refused.status_code == 422
        assert "no <Labels> on a <Text>" in refused.json()["detail"]


def test_a_label_that_the_interface_lacks_is_left_out(module: Any, dock: Dock) -> None:
    (prediction,) = module.Backend(dock, "ner").predict(TASKS[:1], SPANS.replace('value="PER"', 'value="ORG"'))
    assert prediction["result"] == []
