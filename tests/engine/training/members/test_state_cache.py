"""States kept on disk give the same training; layers below and above are really left out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import run_of, train_plan
from adaptdock.engine.training.members.state_cache import Cache
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.errors import BackboneError, MismatchError, UsageError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone, Batch, Feature, LoadOptions


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADAPTDOCK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(backbone: Backbone, data: Path, method: str, layers: str | None, **options: object) -> Plan:
    chosen = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8, **options}
    of_method = {"layers": layers} if layers else {}
    return plan(backbone, "ner", method, Source(data=str(data)), chosen, of_method)


def features(plan: Plan) -> list[Feature]:
    return [feature for unit in plan.units for feature in unit]


@pytest.fixture
def runs(backbone: Backbone) -> Iterator[list[int]]:
    """How often each layer of the backbone has run, from the bottom."""
    counts = [0, 0]
    blocks = next(module for module in backbone.model.modules() if isinstance(module, nn.ModuleList))

    def count(number: int) -> object:
        def hook(*_: object) -> None:
            counts[number] += 1

        return hook

    handles = [block.register_forward_hook(count(number)) for number, block in enumerate(blocks)]
    yield counts
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("method", "layers"), [("features", None), ("lora", "1"), ("prefix", "1"), ("bottleneck", "1")]
)
def test_training_with_kept_states_gives_the_same_weights(
    backbone: Backbone, data: Path, tmp_path: Path, method: str, layers: str | None
) -> None:
    plain = train_plan(made(backbone, data, method, layers, backbone_dropout=False), tmp_path / "plain").adapter.tensors
    kept = train_plan(made(backbone, data, method, layers, cache=True), tmp_path / "kept").adapter.tensors
    for name, tensor in plain.items():
        assert torch.allclose(tensor.float(), kept[name].float(), atol=2e-3), name


def test_layers_beneath_run_once_and_those_above_in_each_step(
    backbone: Backbone, data: Path, tmp_path: Path, runs: list[int]
) -> None:
    given = made(backbone, data, "lora", "1", cache=True, head_start="random")
    Cache(backbone, given.assembly, features(given))
    assert runs[0] > 0
    before = list(runs)
    trainable = run_of(given, tmp_path).members.trainable()
    cache = Cache(backbone, given.assembly, features(given))
    assert runs == before  # the file was there
    from adaptdock.engine.core.batches import collate, collate_labels

    batch = features(given)[:4]
    labels = [collate_labels(batch, backbone.device)]
    trainable(labels, entering=cache.states(batch), **collate(backbone, batch))
    assert (runs[0], runs[1]) == (before[0], before[1] + 1)
    whole = [module for module in backbone.model.modules() if isinstance(module, nn.ModuleList)]
    assert len(whole[0]) == 2  # all layers are back


def test_frozen_features_need_no_backbone_once_they_are_kept(
    backbone: Backbone, data: Path, tmp_path: Path, runs: list[int]
) -> None:
    given = made(backbone, data, "features", None, cache=True)
    cache = Cache(backbone, given.assembly, features(given))
    before = list(runs)
    states = cache.states(features(given)[:3])
    assert runs == before
    from adaptdock.engine.core.batches import collate

    expected = backbone.forward(Batch(collate(backbone, features(given)[:3])))
    for row, feature in enumerate(features(given)[:3]):
        own = len(feature.inputs["input_ids"])
        assert torch.allclose(states[row, :own], expected[row, :own], atol=1e-5)
    assert cache.nbytes == sum(len(f.inputs["input_ids"]) for f in features(given)) * backbone.width * 4


def test_another_layer_text_or_backbone_has_a_file_of_its_own(
    backbone: Backbone, model_folder: Path, data: Path, home: Path
) -> None:
    first = made(backbone, data, "lora", "1")
    bfloat = load_backbone(str(model_folder), LoadOptions(device="cpu", dtype="bfloat16"))
    files = {
        Cache(backbone, first.assembly, features(first)).file,
        Cache(backbone, first.assembly, features(first)[1:]).file,
        Cache(backbone, made(backbone, data, "features", None).assembly, features(first)).file,
        Cache(bfloat, first.assembly, features(first)).file,
    }
    assert len(files) == 4
    assert sorted((home / "states").iterdir()) == sorted(files)


def test_what_cannot_be_kept_is_refused(backbone: Backbone, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="acts in the first layer already"):
        train_plan(made(backbone, data, "lora", None, cache=True), tmp_path)
    with pytest.raises(UsageError, match="backbone_dropout"):
        made(backbone, data, "lora", "1", cache=True, backbone_dropout=True)


def test_dropped_layers_are_gone_and_make_another_backbone(
    backbone: Backbone, model_folder: Path, data: Path, tmp_path: Path
) -> None:
    short = load_backbone(str(model_folder), LoadOptions(device="cpu", drop_layers=1))
    assert {port.layer for port in short.ports if port.kind == "linear"} == {0}
    inputs = {"input_ids": torch.tensor([[2, 7, 8, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        expected = backbone.entering(inputs, 1)
        assert torch.equal(short.forward(Batch(inputs)), expected)
    train_plan(made(short, data, "lora", None), tmp_path)
    adapter = read_file(tmp_path / "best.safetensors")
    assert adapter.card.backbone.drop_layers == 1
    with pytest.raises(MismatchError, match="their weights differ"):
        Dock(backbone).dock(adapter)
    with pytest.raises(BackboneError, match="the backbone has 2 layers, and one has to stay"):
        load_backbone(str(model_folder), LoadOptions(device="cpu", drop_layers=2))
