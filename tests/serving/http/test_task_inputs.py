"""Inputs that are objects, several windows for an input, and heads with row inputs, in the batches of a server."""

import math
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


def is_near(value: Any, expected: Any) -> bool:
    """Compare values of JSON; rows of a mixed batch may differ from a row alone in the last digits."""
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(is_near(value[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(is_near, value, expected))
    return math.isclose(value, expected, abs_tol=2e-4) if isinstance(expected, float) else bool(value == expected)


def test_each_task_is_answered_in_mixed_batches_as_without_a_server(backbone: Backbone, tmp_path: Path) -> None:
    adapters = {task: Bench.of(backbone, task).adapter(method_entries("lora", {}), task) for task in INPUTS}
    for task, adapter in adapters.items():
        write_file(tmp_path / f"{task}.safetensors", adapter)
    with Dock(backbone) as dock:
        expected = {task: dock.predict(dock.dock(adapter), [INPUTS[task]])[0] for task, adapter in adapters.items()}
    with serving(backbone, adapters=str(tmp_path)) as client:
        answers = client.ask(list(INPUTS), *INPUTS.values())
        for answer, task in zip(answers, INPUTS, strict=True):
            assert is_near(answer["prediction"], expected[task]), task
        client.refused(422, "the query is a text", json={"adapter": "rerank", "inputs": [{"candidates": ["a"]}]})
