"""A mix of layers: what transformers says the layers are, mixed as ELMo does, beside rows without a mix."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_backbone
from builders import build_adapter
from one_step import train as take_steps

from adaptdock.engine.core.assembly import assemble, make_task, method_entries
from adaptdock.engine.core.batches import collate
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.members.state_cache import Cache
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.errors import BackboneError, UsageError
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins.contracts import Backbone, Batch, Feature

TEXTS = ["ada runs in the rain", "bob", "eve sings and joe sings"]


def adapter(backbone: Backbone, seed: int = 0, **options: Any) -> AdapterFile:
    return build_adapter(backbone, "features", {"mix": "layers", **options}, seed=seed, name=f"mix{seed}")


def features(dock: Dock, name: str) -> list[Feature]:
    task = dock.assembly(name).task
    return [feature for text in TEXTS for feature in task.encode(task.read(text), dock.reading(64), labelled=False)]


@pytest.mark.parametrize("architecture", ["bert", "llama", "gpt2", "distilbert"])
def test_the_head_reads_what_elmo_reads_of_the_states_that_transformers_gives(architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    given = adapter(backbone)
    dock = Dock(backbone)
    name = dock.dock(given)
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        layers = backbone.model(**inputs, output_hidden_states=True).hidden_states
    share = given.tensors["layers.mix_weight"].softmax(0)
    expected = given.tensors["layers.mix_gamma"] * sum(part * state for part, state in zip(share, layers, strict=True))
    with dock.boarding([name]) as rows:
        found = dock.hidden(rows, inputs)
    assert len(layers) == len(share)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_it_starts_as_the_plain_mean_of_all_layers(backbone: Backbone) -> None:
    dock = Dock(backbone)
    name = dock.dock(build_adapter(backbone, "features", {"mix": "layers"}, trained=False))
    inputs = collate(backbone, features(dock, name))
    with torch.no_grad():
        expected = torch.stack(backbone.layers(Batch(inputs))).mean(0)
    with dock.boarding([name] * len(TEXTS)) as rows:
        torch.testing.assert_close(dock.hidden(rows, inputs), expected, atol=1e-5, rtol=1e-4)


def test_rows_with_a_mix_and_without_share_a_batch_and_none_disturbs_another(
    backbone: Backbone, dock: Dock, adapters: dict[str, AdapterFile]
) -> None:
    names = [dock.dock(adapter(backbone)), dock.dock(adapter(backbone, seed=1))]
    names += [dock.dock(adapters[kind], kind) for kind in ("lora", "prompt", "prefix", "bottleneck")]
    names.append(f"lora+{names[0]}")  # what is mixed are the states with what acts in them
    feature = features(dock, names[0])[0]
    with dock.boarding(names) as rows:
        together = dock.run(rows, [feature] * len(names))
    alone = []
    for name in names:
        with dock.boarding([name]) as rows:
            alone += dock.run(rows, [feature])
    for name, one, other in zip(names, together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0, msg=name)
    assert not torch.allclose(alone[0], alone[-1], atol=1e-3)


def test_a_bare_row_is_bit_for_bit_what_it_is_in_a_batch_without_a_mix(backbone: Backbone, dock: Dock) -> None:
    name = dock.dock(adapter(backbone))
    inputs = collate(backbone, features(dock, name))
    with dock.boarding([None, None, None]) as bare, dock.boarding([None, name, None]) as rows:
        assert torch.equal(dock.hidden(bare, inputs)[[0, 2]], dock.hidden(rows, inputs)[[0, 2]])


def test_threads_do_not_see_the_layers_of_each_other(backbone: Backbone, dock: Dock) -> None:
    names = [dock.dock(adapter(backbone, seed=seed)) for seed in range(4)]
    given = [features(dock, names[0])[seed % 3] for seed in range(4)]

    def ask(number: int) -> list[torch.Tensor]:
        with dock.boarding([names[number]]) as rows:
            return [dock.run(rows, [given[number]])[0] for _ in range(20)]

    expected = [ask(number)[0] for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for one, found in zip(expected, pool.map(ask, range(4)), strict=True):
            assert all(torch.equal(one, other) for other in found)


def test_its_weights_learn_and_a_reloaded_file_gives_the_same_logits(
    backbone: Backbone, dock: Dock, tmp_path: Path
) -> None:
    start = build_adapter(backbone, "features", {"mix": "layers"}, trained=False)
    given = features(dock, dock.dock(start))
    for feature in given:
        feature.labels = [1] * len(feature.inputs["input_ids"])
    learnt = AdapterFile(start.card.model_copy(update={"name": "learnt"}), take_steps(dock, start, given))
    write_file(tmp_path / "mix.safetensors", learnt)
    names = [dock.dock(learnt), dock.dock(read_file(tmp_path / "mix.safetensors"), "reloaded")]
    found = []
    for name in names:
        with dock.boarding([name]) as rows:
            found += dock.run(rows, given[:1])
    assert torch.equal(*found)


def test_with_states_kept_on_disk_it_learns_the_same_and_they_take_as_many_layers(
    backbone: Backbone, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTDOCK_CACHE", str(tmp_path / "cache"))

    def planned(cache: bool) -> Plan:
        options = {"epochs": 2, "learning_rate": 1e-2, "cache": cache, "head_start": "random"}
        return plan(backbone, "ner", "features", Source(data=str(data)), options, {"mix": "layers"})

    plain, kept = (train_plan(planned(cache), tmp_path / str(cache)).adapter.tensors for cache in (False, True))
    assert plain["layers.mix_weight"].shape == (3,)
    assert bool(plain["layers.mix_weight"].any())
    for name, tensor in plain.items():
        assert torch.allclose(tensor.float(), kept[name].float(), atol=2e-3), name
    made = planned(True)
    units = [feature for unit in made.units for feature in unit]
    positions = sum(len(feature.inputs["input_ids"]) for feature in units)
    assert Cache(backbone, made.assembly, units).nbytes == positions * backbone.width * 4 * 3


def test_where_layers_cannot_be_mixed_it_is_refused(data: Path) -> None:
    with pytest.raises(BackboneError, match="two halves"):
        adapter(tiny_backbone("t5"))
    with pytest.raises(UsageError, match="reads the last states and no mix of layers"):
        assemble(tiny_backbone("llama"), method_entries("features", {"mix": "layers"}), make_task("clm", {}))
