"""Inputs that are objects, several windows for an input, and heads with row inputs, in the batches of a server."""

from pathlib import Path
from typing import Any

from served import serving

from adaptdock.engine.conformance.bench import Bench
from adaptdock.engine.core.assembly import method_entries
from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone

INPUTS: dict[str, Any] = {
    "rerank": {"query": "who ran", "candidates": ["it rained", {"id": "a", "text": "ada ran home"}]},
    "choice": {"question": "who ran", "choices": ["ada", "the rain"], "context": "ada ran home"},
    "spans": "the mayor of porto met ada",
    "multilabel-tokens": {"tokens": ["cats", "sing"]},
}


def test_each_task_is_answered_in_mixed_batches_as_without_a_server(backbone: Backbone, tmp_path: Path) -> None:
    adapters = {task: Bench.of(backbone, task).adapter(method_entries("lora", {}), task) for task in INPUTS}
    for task, adapter in adapters.items():
        write_file(tmp_path / f"{task}.safetensors", adapter)
    with Dock(backbone) as dock:
        expected = {task: dock.predict(dock.dock(adapter), [INPUTS[task]])[0] for task, adapter in adapters.items()}
    with serving(backbone, adapters=str(tmp_path)) as client:
        answers = client.ask(list(INPUTS), *INPUTS.values())
        assert [answer["prediction"] for answer in answers] == list(expected.values())
        client.refused(400, "the query is a text", json={"adapter": "rerank", "inputs": [{"candidates": ["a"]}]})
