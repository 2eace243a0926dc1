"""The example plugins: small, true to their papers, and installed from wheels into an environment of their own."""

import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build_adapter
from environments import Environment, environment
from models import tiny_bert, tiny_tokenizer

from adaptdock import Dock, train
from adaptdock.engine.conformance import Check, checks, tasks
from adaptdock.engine.core.assembly import make_method, make_task
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.run import planned_run, run_of
from adaptdock.engine.training.members.members import Members
from adaptdock.engine.training.planning.run_plan import SharingOptions, TaskSettings, plan_run
from adaptdock.errors import DataError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Feature, ForwardPass, LoadOptions, Reading, Record

EXAMPLES = Path(__file__).parent.parent / "examples" / "plugins"
KINDS = {group: kind for kind, group in registry.GROUPS.items()}


def project(name: str) -> tuple[registry.Kind, EntryPoint]:
    """Return the kind and the entry point of an example, from its project file."""
    made = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())
    ((group, points),) = made["project"]["entry-points"].items()
    ((point, value),) = points.items()
    return KINDS[group], EntryPoint(point, value, group)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the examples from their source folders."""
    found = []
    for folder in sorted(EXAMPLES.iterdir()):
        kind, point = project(folder.name)
        monkeypatch.syspath_prepend(folder / "src")
        found.append(registry.Plugin(kind, point.name, point.value, f"adaptdock-{folder.name}", "0.1.0", point))
    installed = (*registry._installed(), *found)
    monkeypatch.setattr(registry, "_installed", lambda: installed)
    yield
    examples = ("adaptdock_road", "adaptdock_keyphrase", "adaptdock_relation")
    for name in [name for name in sys.modules if name.startswith(examples)]:
        del sys.modules[name]


def test_the_method_takes_fewer_than_80_lines_and_nothing_else() -> None:
    files = [file for file in (EXAMPLES / "road" / "src").rglob("*.py") if file.name != "__init__.py"]
    assert [file.name for file in files] == ["road.py"]
    assert len(files[0].read_text().splitlines()) < 80


@pytest.mark.parametrize("name", sorted(folder.name for folder in EXAMPLES.iterdir()))
def test_an_example_keeps_to_its_contract(name: str) -> None:
    kind, point = project(name)
    failed = [one for one in (check.outcome() for check in checks(kind, point.name)) if one.verdict == "failed"]
    assert failed == []


def test_keyphrases_are_found_in_scripts_without_spaces_and_whatever_is_invisible() -> None:
    keyphrase = make_task("keyphrase", {})
    records = [
        {"where": "a:1", "text": "我们用热泵取暖。", "keyphrases": ["热泵"]},
        {"where": "a:2", "text": "Heat pu\u00admps need power", "keyphrases": ["heat pumps"]},
    ]
    cleaned = keyphrase.clean(records, "train")
    assert cleaned.notes == []
    task = keyphrase.fit(cleaned.records)
    (feature,) = task.encode(cleaned.records[1], Reading(tiny_tokenizer(), 64), labelled=True)
    assert [feature.labels[position] for _, position in feature.alignment] == [1, 2, 0, 0]


def test_a_check_that_fails_says_so_to_pytest() -> None:
    with pytest.raises(Exception, match="it cannot be: ValueError: because"):
        Check("it cannot be", lambda: (_ for _ in ()).throw(ValueError("because")))()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft
def test_road_computes_what_peft_does(backbone: Backbone, tmp_path: Path) -> None:
    from peft import RoadConfig, get_peft_model

    method = make_method("road", {"group_size": 8, "roles": ["query"]})
    model = load_backbone(str(tiny_bert(tmp_path / "model")), LoadOptions(device="cpu")).model
    config = RoadConfig(target_modules=["query"], group_size=8)
    theirs = get_peft_model(model, config).base_model.model.encoder.layer[0].attention.self.query
    with torch.no_grad():
        theirs.road_theta["default"].normal_()
        theirs.road_alpha["default"].normal_()
    (site, *_) = method.sites(backbone.ports)
    learnt = {
        "angle": theirs.road_theta["default"].detach(),
        "scale_change": theirs.road_alpha["default"].detach() - 1,
    }
    x = torch.randn(2, 5, 32)
    bare = theirs.base_layer(x)
    folded = {name: tensor.unsqueeze(0) for name, tensor in method.fold(site, learnt, backbone).items()}
    mine = method.transform(folded, x, bare.clone(), ForwardPass(1))
    torch.testing.assert_close(mine, theirs(x), atol=1e-5, rtol=0)
    assert not torch.allclose(mine, bare, atol=1e-3)


MARKED = "[Ada Berg] works for [Nordbank] as an engineer."


def test_a_relation_beside_other_tasks_in_one_batch_is_what_it_is_alone(backbone: Backbone) -> None:
    texts = [MARKED, "In the long run, said a man from [Porto] , most of all he liked [Oakline]."]
    with Dock(backbone) as dock:
        for name, labels, seed in (("one", "ab", 1), ("other", "abcd", 2)):
            dock.dock(build_adapter(backbone, "lora", labels=tuple(labels), task="relation", seed=seed), name)
        dock.dock(build_adapter(backbone, "prefix", {"length": 3}), "ner")
        dock.dock(build_adapter(backbone, "bottleneck", labels=("x", "y", "z"), task="classification"), "topic")
        names = ["ner", "one", "topic", "other", "one", "other"]
        inputs = ["ada runs", texts[0], "bob sings in the rain", texts[1], texts[1], texts[0]]
        for name, text, [mixed] in zip(names, inputs, dock.logits(names, inputs), strict=True):
            [[alone]] = dock.logits(name, [text])
            torch.testing.assert_close(mixed, alone, atol=1e-5, rtol=0)
        [first], [second] = dock.logits("one", ["[Porto] lies near [Oakline].", "Porto lies [near] [Oakline]."])
        assert not torch.allclose(first, second, atol=1e-4)  # the same words, other marks


def test_a_relation_is_trained_and_answers(backbone: Backbone, tmp_path: Path) -> None:
    result = train("relation", backbone=backbone, folder=tmp_path / "run", epochs=2, learning_rate=1e-2)
    labels = result.adapter.card.task.options["labels"]
    assert labels == ["based_in", "born_in", "works_for"]
    with Dock(backbone) as dock:
        [answer] = dock.predict(dock.load(result.file), [MARKED])
        assert answer["entities"] == ["Ada Berg", "Nordbank"]
        assert answer["label"] in labels
        for wrong in ("no marks", "[one] mark", "[a] [b] [c]", None, {"text": 5}):
            with pytest.raises(DataError, match="two entities in square brackets"):
                dock.predict("relation", [wrong])


def test_a_relation_trained_beside_another_task_has_the_loss_that_it_has_alone(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    training = {"batch_size": 8}
    entries = {
        "ner": TaskSettings("ner", source=Source(data=str(data)), training=training),
        "relation": TaskSettings("relation", training=training),
    }
    run = planned_run(plan_run(backbone, entries, SharingOptions(sharing="passes")), tmp_path)
    units = [unit for member in run.members.members for unit in member.units]
    rows = [next(unit for unit in units if unit[0] == number) for number in (0, 1, 1, 0)]
    alone = 0.0
    for number, task in enumerate(run.members.tasks):
        own = [(0, unit) for row, unit in rows if row == number]
        alone += losses(run_of(task.plan, tmp_path).members, own)
    assert losses(run.members, rows) == pytest.approx(alone, abs=1e-5)


@torch.no_grad()
def losses(members: Members, units: list[Any]) -> float:
    trainable = members.trainable().eval()
    for assembly in members.assemblies:
        members.dock.ports.acquire(assembly.sites)
    try:
        return float(trainable(**members.collator()([(units, [1.0] * len(members), (0, 0, 0))]))["loss"])
    finally:
        for assembly in members.assemblies:
            members.dock.ports.release(assembly.sites)


def test_the_kit_refuses_labels_of_two_forms_and_row_inputs_that_no_head_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks._bench.cache_clear()  # which may hold a class of an earlier import of the example
    plugin = registry.load("task", "relation")
    encode = plugin.encode

    def changed(change: Callable[[Feature, Record], None]) -> str:
        def altered(self: Any, record: Record, reading: Reading, labelled: bool) -> list[Feature]:
            [feature] = encode(self, record, reading, labelled)
            change(feature, record)
            return [feature]

        monkeypatch.setattr(plugin, "encode", altered)
        check = next(check for check in checks("task", "relation") if "labels and row inputs" in str(check))
        return str(check.outcome().reason)

    assert changed(lambda feature, record: None) == ""
    assert "found 'a'" in changed(lambda feature, record: setattr(feature, "labels", "a"))
    assert "an int, a float, or a list" in changed(lambda feature, record: setattr(feature, "labels", (1, 2)))
    some = changed(lambda feature, record: setattr(feature, "labels", 1.0 if record["label"] == "born_in" else 1))
    assert "labels have several forms, where a batch has one: float (number) and int (number)" in some
    assert "no row input 'entities'" in changed(lambda feature, record: feature.row_inputs.clear())
    unread = changed(lambda feature, record: feature.row_inputs.update(marks=[1]))
    assert "encode() gives row inputs ['marks'] that row_inputs of EntityPairHead does not name" in unread


def test_an_entity_far_in_a_long_text_is_kept_and_the_rest_is_cut_and_counted() -> None:
    task = make_task("relation", {"labels": ["a", "b"]})
    reading = Reading(tiny_tokenizer(), 64)
    text = f"{'x ' * 100}[Ada] runs to [Porto]{' y' * 100}"
    [feature] = task.encode({"text": text}, reading, labelled=False)
    tokens = reading.tokenizer.convert_ids_to_tokens(feature.inputs["input_ids"])
    assert [tokens[place] for place in feature.row_inputs["entities"]] == ["a", "p"]
    assert len(tokens) == 64
    assert feature.cut > 100
    with pytest.raises(DataError, match="the two entities are 101 tokens apart"):
        task.encode({"text": f"[A]{' x' * 100} [B]"}, reading, labelled=False)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which the examples are installed from wheels."""
    folder = tmp_path_factory.mktemp("environment")
    made = environment(folder / "env")
    made.run(f"pip wheel --wheel-dir dist {' '.join(str(path) for path in EXAMPLES.iterdir())}", folder)
    made.run("pip install dist/*.whl", folder)
    return made


@pytest.mark.slow
def test_the_examples_are_installed_from_wheels_and_used(
    wheels: Environment, tmp_path: Path, model_folder: Path
) -> None:
    plugins = json.loads(wheels.run("adapt plugins --json", tmp_path).stdout)
    theirs = {(row["kind"], row["name"]): row["distribution"] for row in plugins if row["distribution"] != "adaptdock"}
    assert theirs == {
        ("method", "road"): "adaptdock-road",
        ("task", "keyphrase"): "adaptdock-keyphrase",
        ("task", "relation"): "adaptdock-relation",
        ("files", "topics"): "adaptdock-topics",
    }
    training = f"--backbone {model_folder} --precision fp32 --epochs 1"
    wheels.run(f"adapt train --task keyphrase --method road {training} -o both.safetensors", tmp_path)
    card = json.loads(wheels.run("adapt inspect both.safetensors --json", tmp_path).stdout)["card"]
    assert [card["task"]["distribution"], card["methods"][0]["distribution"]] == [
        "adaptdock-keyphrase",
        "adaptdock-road",
    ]
    answer = json.loads(wheels.run("adapt predict both.safetensors --json 'Wind farms need storage.'", tmp_path).stdout)
    assert answer["text"] == "Wind farms need storage."
    (row,) = json.loads(wheels.run("adapt list --json", tmp_path).stdout)
    assert (row["name"], row["distribution"]) == ("topics", "adaptdock-topics")
    assert str(wheels.folder) in row["path"]
    assert (
        "food" in wheels.run("adapt predict topics 'We ate fried fish and onion soup at the market.'", tmp_path).stdout
    )
    measured = json.loads(wheels.run("adapt eval topics --json", tmp_path).stdout)
    assert measured["metrics"]["accuracy"] > 80


@pytest.mark.slow
@pytest.mark.parametrize("name", ["road", "keyphrase", "relation", "topics"])
def test_an_installed_example_passes_adapt_plugin_check(wheels: Environment, tmp_path: Path, name: str) -> None:
    assert " 0 failed" in wheels.run(f"adapt plugin check {name}", tmp_path).stderr
