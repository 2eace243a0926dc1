"""Inputs of golden probes: every task's sample gives some that its adapters answer; the user's texts are asked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.conformance.bench import Bench
from adaptdock.engine.conformance.models import SHAPES, tiny_backbone
from adaptdock.engine.core.assembly import make_task, method_entries
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.golden_probes import ask, recorded
from adaptdock.engine.training.planning.probe_inputs import LETTERS, probe_inputs
from adaptdock.engine.training.train import train
from adaptdock.errors import BackboneError, UsageError
from adaptdock.hub.artefact.card import PROBES_LIMIT
from adaptdock.hub.artefact.file import read_card
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone


def bench_of(task: str) -> Bench:
    """Return a bench of the first shape of model that a task goes with."""
    for shape in SHAPES:
        try:
            bench = Bench.of(tiny_backbone(shape), task)
            bench.features(method_entries("lora", {}))
        except (BackboneError, UsageError):
            continue
        return bench
    pytest.skip("it goes with no tiny model: their vocabulary is of bytes")


@pytest.mark.parametrize("task", registry.names("task"))
def test_the_sample_of_every_task_gives_probes(task: str) -> None:
    bench = bench_of(task)
    inputs = probe_inputs(bench.task, "sample", Source(), 0)
    adapter = recorded(Dock(bench.backbone), bench.adapter(method_entries("lora", {}), "a"), inputs, "sample")
    probes = adapter.card.probes
    assert probes is not None
    sizes = [len(probe.values) for probe in probes.probes]
    enough = next((count for count in range(4, 13) if sum(sizes[:count]) >= 12), 12)
    assert len(sizes) == min(enough, len(inputs))
    assert len(probes.model_dump_json().encode()) < PROBES_LIMIT
    dock = Dock(bench.backbone)
    (outcome,) = ask(dock, [dock.prepare(adapter)])
    assert outcome is not None
    assert outcome.good


def test_labels_are_left_out_and_long_texts_cut() -> None:
    task = make_task("classification", {"labels": ("A", "B")})
    assert all(isinstance(item, str) for item in probe_inputs(task, "sample", Source(), 0))
    for item in probe_inputs(make_task("qa", {}), "sample", Source(), 0):
        assert item.keys() == {"question", "context"}
        assert len(item["context"]) <= LETTERS


@pytest.mark.parametrize(("asked", "origin"), [({}, "sample"), ({"probe_data": "validation"}, "validation")])
def test_training_puts_the_users_texts_into_the_file_only_where_that_is_asked_for(
    backbone: Backbone, data: Path, tmp_path: Path, asked: dict[str, Any], origin: str
) -> None:
    options = {"epochs": 1, "batch_size": 60, **asked}
    file = train("ner", backbone=backbone, data=data, folder=tmp_path / "run", **options).file
    probes = read_card(file).probes
    assert probes is not None
    assert probes.origin == origin
    own = (data / "validation.conll").read_text()
    words = [word for probe in probes.probes for word in probe.input["tokens"]]
    assert all(word in own for word in words) == (origin == "validation")
    assert "tags" not in json.dumps(probes.model_dump())
    with Dock(backbone) as dock:
        dock.load(file)


def test_training_records_no_probes_where_none_are_wanted(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "batch_size": 60, "probe_data": "none"}
    file = train("ner", backbone=backbone, data=data, folder=tmp_path / "run", **options).file
    assert read_card(file).proof == "no probes"
