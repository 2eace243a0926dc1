"""The public names: what there is, examples that run, and arguments of wrong types."""

import doctest
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import build_adapter
from live import save_writer, started
from models import tiny_bert
from writers import untrained

import adaptdock
from adaptdock import AdaptError, Client, Dock, Residency, read_card, train
from adaptdock.backbones.transformers.checkpoint import ALIASES
from adaptdock.errors import UsageError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.client.requests import (
    adapter_of,
    aliasing,
    changing,
    embedding,
    loading,
    predicting,
    pushing,
    splitting,
    writing,
)

SERVED = ("Client", "AsyncClient")
"""Their examples need a process that serves; tests/serving/client runs them."""


def test_dir_lists_the_public_names_and_nothing_else() -> None:
    assert dir(adaptdock) == sorted(adaptdock.__all__)
    for name in adaptdock.__all__:
        assert getattr(adaptdock, name) is not None


def examples() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder()
    yield from (test for test in finder.find(adaptdock, "adaptdock", globs={}) if test.examples)
    for name in adaptdock.__all__:
        if not name.startswith("__") and name not in SERVED:
            found = getattr(adaptdock, name)
            yield from (test for test in finder.find(found, name, globs={name: found}) if test.examples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples name: two backbones, adapters and data."""
    folder = tmp_path_factory.mktemp("examples")
    backbone = Dock.open(str(tiny_bert(folder / "minilm")), device="cpu").backbone
    write_file(folder / "ner.safetensors", build_adapter(backbone, "lora", name="ner"))
    topic = build_adapter(backbone, "lora", labels=("a", "b", "c"), task="classification", name="topic")
    write_file(folder / "topic.safetensors", topic)
    write_file(folder / "near.safetensors", started(backbone, "embedding"))
    writer = save_writer(folder / "my-language-model")
    write_file(folder / "writer.safetensors", untrained(writer, "generation"))  # type: ignore[arg-type]
    (folder / "people.conll").write_text("\n".join("Ada\tB-PER\nruns\tO\n" for _ in range(12)))
    return folder


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_the_example_of_a_docstring_runs(
    example: doctest.DocTest, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delitem(ALIASES, "minilm")  # of which the folder of that name takes the place
    failures = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example)
    assert failures.failed == 0, capsys.readouterr().out
    assert failures.attempted


def test_every_function_that_answers_has_an_example() -> None:
    named = {example.name for example in examples()}
    assert named >= {"adaptdock", "Dock", "Dock.open", "Residency", "train", "read_card"}
    assert named >= {f"Dock.{name}" for name in ("predict", "generate", "logits", "embed")}


WRONG: list[Any] = [5, 1.5, b"bytes", ["x"], {"x": 1}, object()]
NUMBERS = WRONG[:2]
TAKEN: dict[str, list[Any]] = {
    "dock.reading": WRONG[:1],
    "Residency bytes": WRONG[:1],
    "train epochs": WRONG[:1],
    "Client timeout": NUMBERS,
    "Client retries": WRONG[:1],
    "client.predict timeout": NUMBERS,
    "client.load version": WRONG[:1],
    "client.push": WRONG[2:3],
    "client.split mirror": WRONG[:1],
}
"""What is of the right type for some of them."""


def calls(dock: Dock, residency: Residency) -> dict[str, Callable[[Any], Any]]:
    """Each public function with one argument left open."""
    return {
        "Dock": Dock,
        "Dock.open": Dock.open,
        "Dock.open tokenizer": lambda given: Dock.open("minilm", tokenizer=given),
        "Dock.open device": lambda given: Dock.open("minilm", device=given),
        "dock.load": dock.load,
        "dock.load name": lambda given: dock.load("ner.safetensors", given),
        "dock.load replace": lambda given: dock.load("ner.safetensors", replace=given),
        "dock.dock": dock.dock,
        "dock.prepare": dock.prepare,
        "dock.unload": dock.unload,
        "dock.card": dock.card,
        "dock.assembly": dock.assembly,
        "dock.assembled": dock.assembled,
        "dock.reading": lambda given: dock.reading(given),
        "dock.boarding": lambda given: dock.boarding([given]).__enter__(),
        "dock.order": lambda given: dock.order([given]),
        "dock.mixed": lambda given: dock.mixed([given]),
        "dock.run": lambda given: dock.run([given], [given]),
        "dock.hidden": lambda given: dock.hidden([()], {}, given),
        "dock.predict": lambda given: dock.predict([given], ["a"]),
        "dock.logits": lambda given: dock.logits([given], ["a"]),
        "dock.logits input": lambda given: dock.logits("ner", [given]),
        "dock.embed": lambda given: dock.embed(given, ["a"]),
        "dock.embed text": lambda given: dock.embed("near", [given]),
        "dock.generate": lambda given: dock.generate(None, [given]),
        "Residency": Residency,
        "Residency bytes": lambda given: Residency(dock, given),
        "Residency read": lambda given: Residency(dock, read=given),
        "residency.know": lambda given: residency.know(given, "a.safetensors"),
        "residency.know path": lambda given: residency.know("a", given),
        "residency.forget": residency.forget,
        "residency.pin": residency.pin,
        "residency.unpin": residency.unpin,
        "residency.tier": residency.tier,
        "residency.docked_bytes": residency.docked_bytes,
        "residency.present": lambda given: residency.present([given]).__enter__(),
        "residency.predict": lambda given: residency.predict([given], ["a"]),
        "residency.generate": lambda given: residency.generate([given], ["a"]),
        "train": train,
        "train method": lambda given: train("ner", given),
        "train backbone": lambda given: train("ner", backbone=given),
        "train data": lambda given: train("ner", backbone=dock.backbone, data=given),
        "train folder": lambda given: train("ner", backbone=dock.backbone, folder=given),
        "train method_options": lambda given: train("ner", backbone=dock.backbone, method_options=given),
        "train task_options": lambda given: train("ner", backbone=dock.backbone, task_options=given),
        "train columns": lambda given: train("ner", backbone=dock.backbone, columns=given),
        "train progress": lambda given: train("ner", backbone=dock.backbone, progress=given),
        "train resume": lambda given: train("ner", backbone=dock.backbone, resume=given),
        "train epochs": lambda given: train("ner", backbone=dock.backbone, epochs=given),
        "read_card": read_card,
        "Client": Client,
        "Client token": lambda given: Client("http://127.0.0.1:1", given),
        "Client timeout": lambda given: Client("http://127.0.0.1:1", timeout=given),
        "Client retries": lambda given: Client("http://127.0.0.1:1", retries=given),
        "client.predict": lambda given: predicting([given], ["a"], None),
        "client.predict timeout": lambda given: predicting("a", ["a"], given),
        "client.embed": lambda given: embedding(given, ["a"]),
        "client.embed text": lambda given: embedding("a", [given]),
        "client.complete": lambda given: writing(given, "a", {}),
        "client.adapter": adapter_of,
        "client.load": lambda given: loading(given, None, True),
        "client.load version": lambda given: loading("a", given, True),
        "client.load activate": lambda given: loading("a", None, given),
        "client.push": lambda given: pushing("a", given, True),
        "client.push activate": lambda given: pushing("a", b"", given),
        "client.pin": lambda given: changing(given, "pin"),
        "client.split": lambda given: splitting("a", given, None),
        "client.split mirror": lambda given: splitting("a", {}, given),
        "client.set_alias": lambda given: aliasing("a", given),
    }


def test_every_public_function_refuses_wrong_types_with_what_it_takes(
    backbone: Backbone, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delitem(ALIASES, "minilm")
    with Dock(backbone) as dock:
        dock.load("ner.safetensors", "ner")
        dock.load("near.safetensors", "near")
        table = calls(dock, Residency(dock))
        assert table.keys() >= TAKEN.keys()
        for name, given in itertools.product(table, WRONG):
            if not any(given is value for value in TAKEN.get(name, ())):
                with pytest.raises(AdaptError, match=r"found|unknown|is no option|cannot be used"):
                    raise AssertionError(f"{name} took {given!r}: {table[name](given)!r}")
        assert dock.names == ["near", "ner"]


def test_a_dock_shows_counts_and_closes_what_it_holds(backbone: Backbone, folder: Path) -> None:
    with Dock(backbone) as dock:
        assert repr(dock) == f"<Dock on {backbone.id!r} (bert) with no adapters>"
        dock.load(folder / "ner.safetensors")
        dock.load(folder / "topic.safetensors")
        assert repr(dock) == f"<Dock on {backbone.id!r} (bert) with 'ner', 'topic'>"
        assert len(dock) == 2
        assert "ner" in dock
        assert "other" not in dock
        assert 5 not in dock
    assert len(dock) == 0


def test_logits_by_name_are_those_of_the_windows_that_a_prediction_reads(backbone: Backbone, folder: Path) -> None:
    texts = ["ada met bob in oslo", "word " * 200]
    with Dock(backbone) as dock:
        for name in ("ner", "topic"):
            dock.load(folder / f"{name}.safetensors")
        mixed = dock.logits(["ner", "topic"], texts)
        assert len(mixed[0]) == 1
        assert len(mixed[1]) > 1
        assert mixed[0][0].shape[1] == 5  # B and I of two types, and no entity
        assert all(window.shape == (3,) for window in mixed[1])
        for name, text, windows in zip(["ner", "topic"], texts, mixed, strict=True):
            [alone] = dock.logits(name, [text])
            assert all(abs(a - b).max() < 1e-5 for a, b in zip(windows, alone, strict=True))


def test_vectors_come_from_adapters_that_embed(backbone: Backbone, folder: Path) -> None:
    texts = ["ada runs", "bob sings"]
    with Dock(backbone) as dock:
        dock.load(folder / "near.safetensors", "near")
        dock.load(folder / "ner.safetensors")
        assert dock.embed("near", texts) == [found["embedding"] for found in dock.predict("near", texts)]
        assert dock.embed("ner+near", texts) != dock.embed("near", texts)
        with pytest.raises(UsageError, match="the adapter 'ner' is for ner: it gives no vectors"):
            dock.embed("ner", texts)
