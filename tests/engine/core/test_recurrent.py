"""Adapters in recurrent backbones: the same promises as in transformers, at ports of LSTMs."""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build_adapter
from one_step import train
from recurrent import WORDS, write_elmo, write_ulmfit
from torch import Tensor

from adaptdock.engine.core.assembly import entry
from adaptdock.engine.core.batches import collate
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.engine.training.planning.plan import plan
from adaptdock.engine.training.train import train as run
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins.contracts import Backbone, Batch, Feature, LoadOptions
from adaptdock.plugins.toolkit.windowing import windows

LIMIT = 1e-5
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"rank": 4, "roles": "all"}),
    "lora-recurrent": ("lora", {"rank": 3, "roles": "recurrent"}),
    "dora": ("dora", {"rank": 4, "roles": "input,recurrent"}),
    "full": ("full", {}),
    "ia3": ("ia3", {"roles": "input,recurrent", "feed_forward": False}),
    "bottleneck": ("bottleneck", {"reduction_factor": 4}),
    "parallel": ("bottleneck", {"reduction_factor": 4, "parallel": True}),
    "prompt": ("prompt", {"length": 3}),
    "features": ("features", {}),
    "mix": ("features", {"mix": "layers"}),
}
NO_IDENTITY = ("prompt",)
FAMILIES = ("elmo", "ulmfit")
CASES = [(family, name) for family in FAMILIES for name in METHODS if (family, name) != ("ulmfit", "mix")]
TEXTS = ["ada met bob in oslo", "rain .", "bob", "oslo in rain in oslo met ada ."]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("recurrent")
    return {"elmo": write_elmo(base / "elmo"), "ulmfit": write_ulmfit(base / "ulmfit")}


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Backbone]:
    return {family: loaded(folder) for family, folder in folders.items()}


@pytest.fixture
def dock(request: pytest.FixtureRequest, backbones: dict[str, Backbone]) -> Iterator[Dock]:
    opened = Dock(backbones[request.getfixturevalue("family")])
    yield opened
    opened.close()


def loaded(folder: Path) -> Backbone:
    return load_backbone(str(folder), LoadOptions(device="cpu"))


def adapter(mine: Backbone, name: str, trained: bool = True, task: str = "ner", seed: int = 0) -> AdapterFile:
    plugin, options = METHODS[name]
    return build_adapter(mine, plugin, options, name=name, task=task, trained=trained, seed=seed)


def features(dock: Dock, labelled: bool = False, texts: list[str] = TEXTS) -> list[Feature]:
    found = [windows(text, None, dock.reading(64))[0] for text in texts]
    for feature in found:
        feature.labels = [n % 5 for n in range(len(feature.inputs["input_ids"]))] if labelled else None
    return found


def logits(dock: Dock, names: list[str], given: list[Feature]) -> list[Tensor]:
    with dock.boarding(names) as rows:
        return dock.run(rows, given)


def hidden(dock: Dock, names: list[str | None], given: list[Feature]) -> list[Tensor]:
    with dock.boarding(names) as rows:
        found = dock.hidden(rows, collate(dock.backbone, given))
    return [row[: len(feature.inputs["input_ids"])] for row, feature in zip(found, given, strict=True)]


def possible(family: str) -> list[str]:
    return [name for of, name in CASES if of == family]


def test_ports_are_the_maps_of_every_direction_and_what_comes_out_of_layers(backbones: dict[str, Backbone]) -> None:
    lstm = ["input", "recurrent"]
    found = {family: [port.name for port in mine.ports if port.kind != "linear"] for family, mine in backbones.items()}
    assert found["elmo"] == ["embeddings", "layers.0.output", "layers.1.output", "layers"]
    assert found["ulmfit"] == ["embeddings", "layers.0.output", "layers.1.output", "layers.2.output"]
    names = [port.name for port in backbones["ulmfit"].ports if port.kind == "linear"]
    assert names == [f"layers.{layer}.{role}" for layer in range(3) for role in lstm]
    names = [port.name for port in backbones["elmo"].ports if port.kind == "linear"]
    both = [f"{way}.{role}" for way in ("forward", "backward") for role in (*lstm, "projection")]
    highways = [f"tokens.highways.{number}.{part}" for number in range(2) for part in ("carry", "transform")]
    assert names == [*highways, "tokens.projection", *(f"layers.{layer}.{role}" for layer in range(2) for role in both)]


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case[1] not in NO_IDENTITY])
def test_an_untrained_adapter_leaves_every_state_as_it_was(dock: Dock, family: str, name: str) -> None:
    given = features(dock)
    bare = hidden(dock, [None] * 4, given)
    dock.dock(adapter(dock.backbone, name, trained=False))
    for row, expected in zip(hidden(dock, [name] * 4, given), bare, strict=True):
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case[1] != "features"])
def test_a_trained_adapter_acts_and_trains_with_gradients_on_its_weights_only(
    dock: Dock, family: str, name: str
) -> None:
    given = features(dock, labelled=True)
    start = adapter(dock.backbone, name)
    trained = train(dock, start, given)
    dock.dock(AdapterFile(start.card, trained))
    bare = hidden(dock, [None] * 4, given)
    acted = hidden(dock, [name] * 4, given)
    assert all((one - other).abs().max() > 1e-4 for one, other in zip(acted, bare, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_any_two_methods_give_in_one_batch_what_each_gives_alone(dock: Dock, family: str) -> None:
    given, names = features(dock), possible(family)
    for seed, name in enumerate(names):
        dock.dock(adapter(dock.backbone, name, seed=seed))
    names.append("lora+bottleneck")
    alone = {name: [logits(dock, [name], [feature])[0] for feature in given] for name in names}
    for one, other in combinations_with_replacement(names, 2):
        mixed = [one, other, other, one]
        for number, (name, row) in enumerate(zip(mixed, logits(dock, mixed, given), strict=True)):
            assert (row - alone[name][number]).abs().max() < LIMIT, (one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bare_row_beside_adapters_is_the_bare_backbone_and_undocking_leaves_it_bit_identical(
    dock: Dock, family: str
) -> None:
    given = features(dock)
    before = hidden(dock, [None] * 4, given)
    for name in possible(family):
        dock.dock(adapter(dock.backbone, name))
        found = hidden(dock, [None, name, name, None], given)
        assert (found[0] - before[0]).abs().max() < LIMIT
        assert (found[3] - before[3]).abs().max() < LIMIT
    for name in possible(family):
        dock.unload(name)
    assert all(torch.equal(one, other) for one, other in zip(hidden(dock, [None] * 4, given), before, strict=True))


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_fresh_backbone_gives_the_same_logits_from_the_file_bit_for_bit(
    dock: Dock, family: str, name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    given = features(dock)
    dock.dock(adapter(dock.backbone, name))
    write_file(tmp_path / "a.safetensors", adapter(dock.backbone, name))
    fresh = Dock(loaded(folders[family]))
    fresh.dock(read_file(tmp_path / "a.safetensors"))
    for one, other in zip(logits(dock, [name] * 4, given), logits(fresh, [name] * 4, given), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_word_and_a_long_text_pass_and_so_does_bfloat16(dock: Dock, family: str, folders: dict[str, Path]) -> None:
    given = features(dock, texts=["rain", "ada met bob . " * 15])
    half = Dock(load_backbone(str(folders[family]), LoadOptions(device="cpu", dtype="bfloat16")))
    for opened in (dock, half):
        for name in possible(family):
            opened.dock(adapter(opened.backbone, name))
            assert all(row.isfinite().all() for row in logits(opened, [name, name], given))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["prefix", "mam"])
def test_a_prefix_is_refused_because_there_is_no_attention(dock: Dock, family: str, method: str) -> None:
    with pytest.raises(AdaptError, match="no attention port: it is made of LSTMs, which compute no attention"):
        build_adapter(dock.backbone, method)


@pytest.mark.parametrize("family", FAMILIES)
def test_writing_is_refused(dock: Dock, family: str) -> None:
    ids = torch.tensor([[2, 7]])
    with pytest.raises(AdaptError, match="recurrent backbones do not write"):
        dock.backbone.generate(Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}), {})


@pytest.mark.parametrize("family", ["ulmfit"])
def test_fused_bottlenecks_give_in_a_mixed_batch_what_they_give_alone(dock: Dock, family: str, tmp_path: Path) -> None:
    for number in (1, 2):
        built = adapter(dock.backbone, "parallel", seed=number)
        write_file(tmp_path / f"{number}.safetensors", built)
    members = ",".join(str(tmp_path / f"{number}.safetensors") for number in (1, 2))
    fusion = plan(dock.backbone, "ner", "fusion", method_options={"members": members, "attention_width": 4})
    weights = Trainable(dock.backbone, dock.ports, [[TaskStart(fusion.assembly)]]).tensors()[0]
    card = adapter(dock.backbone, "parallel").card.model_copy(
        update={"methods": fusion.methods, "task": entry("task", "ner", fusion.task.options), "name": "fusion"}
    )
    dock.dock(AdapterFile(card, weights))
    dock.dock(adapter(dock.backbone, "lora"))
    given = features(dock)
    alone = [logits(dock, ["fusion"], [feature])[0] for feature in given]
    for number, row in enumerate(logits(dock, ["fusion", "lora", "fusion", "lora"], given)):
        if number in (0, 2):
            assert (row - alone[number]).abs().max() < LIMIT


def test_a_mix_is_refused_where_the_layers_are_not_shown(backbones: dict[str, Backbone]) -> None:
    with pytest.raises(AdaptError, match="has no layers port"):
        build_adapter(backbones["ulmfit"], "features", {"mix": "layers"})


@pytest.mark.parametrize("family", ["elmo"])
def test_the_mix_of_layers_is_the_formula_of_the_paper_with_their_mean_as_one_more(dock: Dock, family: str) -> None:
    built = adapter(dock.backbone, "mix", seed=3)
    dock.dock(built)
    weights, gamma = built.tensors["layers.mix_weight"], built.tensors["layers.mix_gamma"]
    layers = dock.backbone.embed([TEXTS[0].split()])[:, 0]  # type: ignore[attr-defined]
    layers = torch.cat([layers, layers.mean(0, keepdim=True)])
    expected = gamma * torch.einsum("n,ntw->tw", weights.softmax(0), layers)
    found = hidden(dock, ["mix"], features(dock)[:1])[0][1:-1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["ulmfit"])
@torch.no_grad()
def test_lora_at_both_maps_is_an_lstm_with_other_weights(dock: Dock, family: str) -> None:
    name = "lora"
    built = adapter(dock.backbone, name)
    dock.dock(built)
    found = hidden(dock, [name], features(dock)[:1])[0]
    model = dock.backbone.model
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for port in dock.backbone.ports:
        if port.kind == "linear":
            change = built.tensors[f"{port.name}.lora_b"] @ built.tensors[f"{port.name}.lora_a"] * (16 / 4)
            model.get_submodule(port.module).weight.add_(change)
    expected = hidden(dock, [None], features(dock)[:1])[0]
    model.load_state_dict(before)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["ulmfit"])
@torch.no_grad()
def test_a_prompt_is_the_first_steps(dock: Dock, family: str) -> None:
    built = adapter(dock.backbone, "prompt")
    dock.dock(built)
    given = features(dock)[:1]
    model: Any = dock.backbone.model
    own = model.embeddings(torch.tensor([given[0].inputs["input_ids"]]))
    whole = torch.cat([built.tensors["embeddings.prompt"][None], own], dim=1)
    expected = model(whole, torch.ones(whole.shape[:2]))[0, 3:]
    torch.testing.assert_close(hidden(dock, ["prompt"], given)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["ulmfit"])
@torch.no_grad()
def test_a_pass_can_begin_at_a_layer(dock: Dock, family: str) -> None:
    inputs = collate(dock.backbone, features(dock))
    whole = dock.backbone.forward(Batch(inputs))
    for layer in (0, 1, 2):
        entering = dock.backbone.entering(inputs, layer)
        assert torch.equal(dock.backbone.resumed(inputs, layer, entering), whole)
    assert torch.equal(dock.backbone.entering(inputs, None), whole)


@pytest.mark.parametrize(
    ("family", "method", "options"),
    [("elmo", "lora", {"roles": "all"}), ("ulmfit", "bottleneck", {"reduction_factor": 2})],
)
def test_names_are_learnt_and_the_file_that_training_leaves_finds_them(
    family: str, method: str, options: dict[str, Any], folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    words = [*WORDS, "eve", "joe", "runs", "the", "and", "sings"]
    folder = folders["elmo"] if family == "elmo" else write_ulmfit(tmp_path / "lm", words)
    mine = loaded(folder)
    result = run(
        "ner",
        method,
        mine,
        str(data),
        tmp_path / "run",
        options,
        learning_rate=0.02,
        epochs=12,
        batch_size=4,
        precision="fp32",
    )
    assert result.adapter.card.metrics["test"]["f1"] > 90
    dock = Dock(mine)
    dock.load(result.file, "names")
    (found,) = dock.predict("names", ["ada sings in the rain and joe runs"])
    assert [entity["text"] for entity in found["entities"]] == ["ada", "joe"]


def test_a_domain_is_learnt_without_labels_and_a_classifier_on_top_of_it(tmp_path: Path) -> None:
    mine = loaded(write_ulmfit(tmp_path / "lm"))
    texts = ["ada met bob in oslo .", "bob met ada .", "rain in oslo .", "oslo in rain ."] * 12
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    source = Source(train=str(tmp_path / "texts.txt"), validation=str(tmp_path / "texts.txt"), format="lines")
    chosen = {"learning_rate": 0.02, "precision": "fp32", "max_length": 32, "batch_size": 2}
    domain = run("clm", "full", mine, source, tmp_path / "domain", epochs=8, **chosen)
    metrics = domain.adapter.card.metrics
    assert metrics["validation"]["perplexity"] < 0.75 * metrics["before"]["perplexity"]
    labelled = "".join(f"{'people' if 'met' in text else 'weather'}\t{text}\n" for text in texts)
    (tmp_path / "labels.tsv").write_text("label\ttext\n" + labelled)
    source = Source(train=str(tmp_path / "labels.tsv"), validation=str(tmp_path / "labels.tsv"))
    found = run(
        "classification",
        "full",
        mine,
        source,
        tmp_path / "classifier",
        task_options={"pooling": "concat"},
        epochs=2,
        on=str(domain.file),
        **chosen,
    )
    assert found.adapter.card.metrics["validation"]["accuracy"] == 100
    assert found.adapter.tensors["head.weight"].shape == (2, 36)
    assert any(name.startswith("on.0.layers.2.recurrent") for name in found.adapter.tensors)
