"""AdapterFusion: trained bottlenecks in one adapter, mixed at each position."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_backbone
from builders import build_adapter
from reference import fusion as reference
from torch import Tensor

from adaptdock.adapters.fusion import Fusion
from adaptdock.engine.core.assembly import Assembly, entry, make_method, make_task, put_together
from adaptdock.engine.core.batches import collate, collate_labels
from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.members.trainable import TaskStart, Trainable
from adaptdock.engine.training.planning import pretrained as reading
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.errors import FileError, MismatchError, UsageError
from adaptdock.hub.artefact.card import BackboneEntry
from adaptdock.hub.artefact.file import AdapterFile, read_file, write_file
from adaptdock.plugins.contracts import Backbone, Composite, Feature, ForwardPass, Method, Site

KEPT = ("down", "down_bias", "up", "up_bias")
TEXTS = ["ada met bob in oslo", "rain", "a quick brown fox jumps", "no."]
WIDE, NARROW = {"reduction_factor": 4, "scale": 2.0}, {"reduction_factor": 10}  # 8 and 3 wide


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def bottleneck(backbone: Backbone, seed: int, name: str = "ner", **options: Any) -> AdapterFile:
    return build_adapter(backbone, "bottleneck", {"placement": "pfeiffer", **options}, name=name, seed=seed)


def written(folder: Path, *members: AdapterFile) -> list[Path]:
    paths = [folder / f"member-{number}.safetensors" for number in range(len(members))]
    for path, member in zip(paths, members, strict=True):
        write_file(path, member)
    return paths


def assembled(
    backbone: Backbone, paths: Sequence[Path], labels: Sequence[str] = ("A", "B"), **options: Any
) -> Assembly:
    wanted = make_method("fusion", {"members": [str(path) for path in paths], **options})
    method = reading.adopted(wanted, backbone)
    return put_together(backbone, [("fusion", method)], make_task("ner", {"labels": tuple(labels)}))


def fused(backbone: Backbone, paths: Sequence[Path], seed: int = 0, noise: float = 0.5, **options: Any) -> AdapterFile:
    """Return a fusion whose own maps are random, and whose members are not touched."""
    assembly = assembled(backbone, paths, **options)
    generator = torch.Generator().manual_seed(seed)
    tensors = assembly.start(generator)
    for place, name, parameter in assembly.declared():
        if parameter.trained:
            tensors[f"{place}.{name}"] += noise * torch.randn(parameter.shape, generator=generator)
    (part,) = assembly.parts
    like = bottleneck(backbone, 0).card
    card = like.model_copy(
        update={
            "name": "fused",
            "methods": [entry("method", "fusion", part.method.options)],
            "task": entry("task", "ner", assembly.task.options),
        }
    )
    return AdapterFile(card, tensors)


@pytest.fixture
def pair(backbone: Backbone, tmp_path: Path) -> list[Path]:
    """Two members of different width and scale."""
    return written(tmp_path, bottleneck(backbone, 1, **WIDE), bottleneck(backbone, 2, **NARROW))


def features(backbone: Backbone, count: int = 4) -> list[Feature]:
    texts = itertools.islice(itertools.cycle(TEXTS), count)
    return [
        Feature({name: backbone.tokenizer(text)[name] for name in backbone.tokenizer.model_input_names})
        for text in texts
    ]


def logits(dock: Dock, names: list[str], given: list[Feature]) -> list[Tensor]:
    with dock.boarding(names) as rows:
        return dock.run(rows, given)


def method_of(backbone: Backbone, adapter: AdapterFile) -> tuple[Method, list[Site]]:
    method = make_method("fusion", adapter.card.methods[0].options)
    return method, list(method.sites(backbone.ports))


def folded(backbone: Backbone, adapter: AdapterFile, number: int = 0) -> tuple[Method, dict[str, Tensor]]:
    method, sites = method_of(backbone, adapter)
    site = sites[number]
    own = {name: adapter.tensors[f"{site.port.name}.{name}"] for name in method.parameters(site)}
    return method, {name: tensor.unsqueeze(0) for name, tensor in method.fold(site, own, backbone).items()}


def member_output(member: AdapterFile, place: str, read: Tensor) -> Tensor:
    down, down_bias, up, up_bias = (member.tensors[f"{place}.{name}"] for name in KEPT)
    return member.card.methods[0].options["scale"] * (torch.relu(read @ down.T + down_bias) @ up.T + up_bias)


# --------------------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("options", [{}, {"attention_width": 5}, {"value": False}], ids=["paper", "narrow", "no value"])
@pytest.mark.parametrize("shape", [{}, {"placement": "houlsby", "layers": "1"}, {"parallel": True}], ids=str)
def test_it_computes_the_formula_of_the_paper(
    backbone: Backbone, tmp_path: Path, options: dict[str, Any], shape: dict[str, Any]
) -> None:
    given = [bottleneck(backbone, 1, **WIDE, **shape), bottleneck(backbone, 2, **NARROW, **shape)]
    given.append(bottleneck(backbone, 3, scale=0.5, **shape))
    adapter = fused(backbone, written(tmp_path, *given), **options)
    method, sites = method_of(backbone, adapter)
    assert len(sites) == 2
    for number, site in enumerate(sites):
        place = site.port.name
        out = torch.randn(2, 6, site.port.outputs)
        x = torch.randn(2, 6, site.source.inputs if site.source else site.port.inputs)
        read = x if shape.get("parallel") else out
        own = {name: adapter.tensors[f"{place}.{name}"] for name in method.parameters(site)}
        value = torch.eye(site.port.outputs) + own.get("value_change", 0)
        wanted = [
            reference(
                out[row], [member_output(member, place, read[row]) for member in given], own["query"], own["key"], value
            )
            for row in range(2)
        ]
        found = method.transform(folded(backbone, adapter, number)[1], x, out, ForwardPass(1))
        torch.testing.assert_close(found, torch.stack(wanted), atol=2e-5, rtol=1e-5)


def test_a_fresh_fusion_gives_each_member_the_same_share(backbone: Backbone, pair: list[Path]) -> None:
    adapter = fused(backbone, pair, noise=0)
    place = method_of(backbone, adapter)[1][0].port.name
    adapter.tensors[f"{place}.query"].zero_()
    out = torch.randn(1, 6, 32)
    method, parameters = folded(backbone, adapter)
    wanted = out + sum(member_output(read_file(path), place, out) for path in pair) / 2
    torch.testing.assert_close(
        method.transform(parameters, out, out.clone(), ForwardPass(1)), wanted, atol=1e-5, rtol=0
    )


def test_zeros_are_the_identity_and_padding_is_exact(backbone: Backbone, pair: list[Path]) -> None:
    method, parameters = folded(backbone, fused(backbone, pair))
    out = torch.randn(2, 6, 32)
    nothing = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    assert torch.equal(method.transform(nothing, out, out, ForwardPass(1)), out)
    padded = {}
    for name, tensor in parameters.items():
        shape = list(tensor.shape)
        if name in method.grows:
            shape[method.grows[name] + 1] = 16
        padded[name] = torch.zeros(shape)
        padded[name][tuple(slice(extent) for extent in tensor.shape)] = tensor
    assert {tuple(padded[name].shape) for name in ("down", "up")} == {(1, 16, 32), (1, 32, 16)}
    wanted = method.transform(parameters, out, out, ForwardPass(1))
    torch.testing.assert_close(method.transform(padded, out, out, ForwardPass(1)), wanted, atol=1e-5, rtol=0)


def test_what_acts_holds_no_map_of_the_backbone_s_width_and_is_in_the_precision_of_the_file(
    backbone: Backbone, pair: list[Path]
) -> None:
    adapter = fused(backbone, pair)
    half = AdapterFile(adapter.card, {name: tensor.half() for name, tensor in adapter.tensors.items()})
    _, parameters = folded(backbone, half)
    assert {tensor.dtype for tensor in parameters.values()} == {torch.float16}
    units = 8 + 3
    assert max(tensor.numel() for tensor in parameters.values()) == units * 32


# ------------------------------------------------------------------------------------------- mixed batches


@pytest.fixture
def crowd(dock: Dock, adapters: dict[str, AdapterFile], tmp_path: Path) -> tuple[Dock, list[str]]:
    """A dock with fusions of different members, numbers and widths, and an adapter of every other method."""
    mine = dock.backbone
    for name, adapter in adapters.items():
        dock.dock(adapter, name)
    wide, narrow, third = (bottleneck(mine, seed, **o) for seed, o in ((1, WIDE), (2, NARROW), (3, NARROW)))
    parallel = [bottleneck(mine, seed, parallel=True, reduction_factor=4) for seed in (4, 5)]
    chosen: dict[str, tuple[Sequence[AdapterFile], dict[str, Any]]] = {
        "two": ((wide, narrow), {}),
        "other two": ((narrow, wide), {"attention_width": 4}),
        "narrow two": ((narrow, third), {"labels": ("A", "B", "C")}),
        "three": ((wide, narrow, third), {}),
        "beside": (parallel, {"value": False}),
    }
    for seed, (name, (given, options)) in enumerate(chosen.items()):
        (tmp_path / name).mkdir()
        dock.dock(fused(mine, written(tmp_path / name, *given), seed, **options), name)
    return dock, list(chosen)


def test_any_other_adapter_and_a_fusion_give_in_one_batch_what_each_gives_alone(crowd: tuple[Dock, list[str]]) -> None:
    dock, fusions = crowd
    given = features(dock.backbone)
    pairs = {tuple(sorted((one, other))) for one in fusions for other in dock.names}
    alone = {name: [logits(dock, [name], [feature])[0] for feature in given] for name in dock.names}
    for one, other in sorted(pairs):
        names = [one, other, other, one]
        for number, found in enumerate(logits(dock, names, given)):
            torch.testing.assert_close(found, alone[names[number]][number], atol=1e-5, rtol=0)


def test_fusions_with_as_many_members_are_computed_in_one_operation(crowd: tuple[Dock, list[str]]) -> None:
    dock, _ = crowd
    with dock.boarding(["two", "other two", "narrow two", None]) as rows:
        mixed = dock.mixed(rows)
    (port,) = [port for port in dock.backbone.ports if port.name == "layers.0.ffn_down"]
    assert [len({id(row[0].adapter.parts[0].slot.stack) for row in rows[:2]}), len(mixed.at(port))] == [1, 2]


def test_in_a_stack_it_acts_like_any_adapter(crowd: tuple[Dock, list[str]]) -> None:
    dock, _ = crowd
    given, names = features(dock.backbone), ["lora+two", "two+lora", "two+three", "two"]
    for name, feature, found in zip(names, given, logits(dock, names, given), strict=True):
        torch.testing.assert_close(found, logits(dock, [name], [feature])[0], atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------ training


def made_plan(backbone: Backbone, folder: Path, paths: Sequence[Path], **options: Any) -> Plan:
    lines = ["ada\tB-PER\nin\tO\nrome\tB-LOC\n", "bob\tB-PER\nsaw\tO\noslo\tB-LOC\n"]
    for split in ("train", "validation"):
        (folder / f"{split}.conll").write_text("\n".join(lines * 4))
    members = {"members": ",".join(map(str, paths)), **options}
    source = Source(train=str(folder / "train.conll"), validation=str(folder / "validation.conll"))
    return plan(backbone, "ner", "fusion", source, {"epochs": 1, "store": "float32"}, members)


def test_its_maps_and_the_head_are_trained_and_the_members_stay_as_they_are(
    backbone: Backbone, pair: list[Path], tmp_path: Path
) -> None:
    made = made_plan(backbone, tmp_path, pair)
    dock = Dock(backbone)
    model = Trainable(backbone, dock.ports, [[TaskStart(made.assembly)]]).train()
    (before,) = model.tensors()
    optimiser = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.05)
    given = [feature for unit in made.units for feature in unit]
    dock.ports.acquire(made.assembly.sites)
    model(labels=[collate_labels(given, backbone.device)], **collate(backbone, given))["loss"].backward()
    optimiser.step()
    dock.ports.release(made.assembly.sites)
    (after,) = model.tensors()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.rpartition(".")[2] for name in moved} == {"query", "key", "value_change", "weight", "bias"}
    assert {name.rpartition(".")[2] for name in before.keys() - moved} == set(KEPT)
    assert all((weight.grad is not None) == weight.requires_grad for weight in model.parameters())
    assert sum(w.numel() for w in model.parameters() if w.requires_grad) == made.trained_parameters()
    assert sum(after[name].numel() for name in moved) == made.summary()["trained_parameters"]
    assert sum(after[name].numel() for name in before.keys() - moved) == made.summary()["kept_parameters"]


def test_the_trained_file_needs_no_other_and_holds_its_members_bit_for_bit(
    backbone: Backbone, pair: list[Path], tmp_path: Path
) -> None:
    originals = [read_file(path) for path in pair]
    result = train_plan(made_plan(backbone, tmp_path, pair), tmp_path / "run")
    for path in pair:
        path.unlink()
    stored = read_file(result.file)
    (method,) = stored.card.methods
    assert list(method.options["adopted"]) == ["ner", "ner (2)"]
    assert method.options["members"] == []
    assert str(tmp_path) not in stored.card.model_dump_json(include={"methods"})
    for place in ("layers.0.ffn_down", "layers.1.ffn_down"):
        for name, start, end, dimension in (("down", 0, 8, 0), ("up", 0, 8, 1), ("down", 8, 11, 0), ("up", 8, 11, 1)):
            original = originals[start // 8].tensors[f"{place}.{name}"]
            held = stored.tensors[f"{place}.{name}"].narrow(dimension, start, end - start)
            assert torch.equal(held, original.to(held.dtype))
    fresh = Dock(backbone)
    fresh.load(result.file, "fused")
    fresh.dock(result.adapter, "trained")
    given = features(backbone)
    for one, other in zip(logits(fresh, ["fused"] * 4, given), logits(fresh, ["trained"] * 4, given), strict=True):
        assert torch.equal(one, other)
    fresh.close()


def test_a_run_is_not_resumed_with_members_that_have_changed(
    backbone: Backbone, pair: list[Path], tmp_path: Path
) -> None:
    before = made_plan(backbone, tmp_path, pair).identity()
    assert made_plan(backbone, tmp_path, pair).identity() == before
    write_file(pair[0], bottleneck(backbone, 9, **WIDE))
    after = made_plan(backbone, tmp_path, pair).identity()
    assert [name for name in before if before[name] != after[name]] == ["members"]


def test_a_tensor_that_is_not_trained_takes_no_detour_through_a_reparameterisation(
    backbone: Backbone, pair: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Detour(torch.nn.Module):
        def __init__(self, start: Any) -> None:
            super().__init__()
            seen.extend(start)
            self.names, self.plain = list(start), torch.nn.ParameterList(start.values())

        def forward(self) -> dict[str, Tensor]:
            return dict(zip(self.names, self.plain, strict=True))

    monkeypatch.setattr(Fusion, "reparameterise", lambda self, start, generator: Detour(start), raising=False)
    assembly = assembled(backbone, pair)
    model = Trainable(backbone, Dock(backbone).ports, [[TaskStart(assembly)]])
    assert {name.rpartition(".")[2] for name in seen} == {"query", "key", "value_change"}
    start = assembly.start(torch.Generator().manual_seed(0))
    (tensors,) = model.tensors()
    assert tensors.keys() == start.keys()
    assert all(torch.equal(tensor, start[name]) for name, tensor in tensors.items())


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"activation": "gelu"}, "activation is 'relu' in one, 'gelu' in the other"),
        ({"parallel": True}, "parallel is False in one, True in the other"),
        ({"placement": "houlsby"}, "placement is 'pfeiffer' in one, 'houlsby' in the other"),
        ({"layers": "1"}, r"act at different ports \(layers all and 1\)"),
    ],
)
def test_members_that_cannot_be_computed_together_are_refused(
    backbone: Backbone, tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    paths = written(tmp_path, bottleneck(backbone, 1, "one"), bottleneck(backbone, 2, "two", **other))
    with pytest.raises(UsageError, match=f"'one' and 'two'.*{words}.*leave one out"):
        assembled(backbone, paths)


def test_layers_that_are_the_same_in_other_words_are_no_difference(backbone: Backbone, tmp_path: Path) -> None:
    paths = written(tmp_path, bottleneck(backbone, 1), bottleneck(backbone, 2, layers="0-1"))
    assert len(assembled(backbone, paths).parts[0].sites) == 2


@pytest.mark.parametrize(("method", "made_of"), [("lora", "lora"), ("mam", "prefix and bottleneck")])
def test_a_member_of_another_method_is_refused(
    backbone: Backbone, pair: list[Path], tmp_path: Path, method: str, made_of: str
) -> None:
    write_file(pair[1], build_adapter(backbone, method, name="x"))
    with pytest.raises(UsageError, match=rf"member-1\.safetensors: the adapter 'x' is made of {made_of}; .*bottleneck"):
        assembled(backbone, pair)


def test_a_fusion_is_no_member(backbone: Backbone, pair: list[Path]) -> None:
    write_file(pair[0], fused(backbone, pair))
    with pytest.raises(
        UsageError, match="is made of fusion; fusion is made of adapters of the method bottleneck alone"
    ):
        assembled(backbone, pair)


def test_a_member_of_another_backbone_is_refused(backbone: Backbone, pair: list[Path]) -> None:
    member = read_file(pair[1])
    other = BackboneEntry(id="another", architecture="bert", fingerprint="blocks1:other")
    write_file(pair[1], AdapterFile(member.card.model_copy(update={"backbone": other}), member.tensors))
    with pytest.raises(MismatchError, match=r"member-1\.safetensors: .*trained on the backbone 'another'"):
        assembled(backbone, pair)


def test_a_member_that_is_damaged_or_missing_is_refused(backbone: Backbone, pair: list[Path]) -> None:
    member = read_file(pair[1])
    write_file(pair[1], AdapterFile(member.card, {**member.tensors, "surplus": torch.zeros(1)}))
    with pytest.raises(MismatchError, match="surplus"):
        assembled(backbone, pair)
    pair[1].unlink()
    with pytest.raises(FileError, match="there is no such file"):
        assembled(backbone, pair)


def test_less_than_two_members_or_one_twice_are_refused(backbone: Backbone, pair: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"two or more trained adapters .*here there are none.*--members"):
        make_method("fusion", {})
    with pytest.raises(UsageError, match="here there is one"):
        make_method("fusion", {"members": [pair[0]]})
    with pytest.raises(UsageError, match=r"member-0\.safetensors is named twice"):
        make_method("fusion", {"members": [pair[0], pair[0]]})


def test_members_that_have_not_been_read_do_not_act(backbone: Backbone, pair: list[Path]) -> None:
    method = make_method("fusion", {"members": pair})
    assert isinstance(method, Composite)
    assert list(method.wants) == pair
    with pytest.raises(UsageError, match="have not been read"):
        method.sites(backbone.ports)


def test_a_card_with_wrong_options_of_a_member_is_refused(backbone: Backbone, pair: list[Path]) -> None:
    options = fused(backbone, pair).card.methods[0].options
    adopted = {name: {**own, "rank": 3} for name, own in options["adopted"].items()}
    with pytest.raises(UsageError, match="the options of the member 'ner' are not valid"):
        make_method("fusion", {**options, "adopted": adopted})


def test_members_that_read_one_half_of_the_backbone_are_not_fused_for_a_task_that_reads_both(tmp_path: Path) -> None:
    both = tiny_backbone("t5")
    paths = written(tmp_path, *(build_adapter(both, "bottleneck", {"placement": "pfeiffer"}, seed=s) for s in (1, 2)))
    method = reading.adopted(make_method("fusion", {"members": paths}), both)
    further = method.sites(both.ports)[-1]
    assert further.port.stack == "decoder"
    with pytest.raises(UsageError, match=f"behind the port {further.port.name}.*same half of the backbone"):
        method.parameters(further)
