"""Golden probes: what was broken after it was saved is refused with its answers, and what is sound is not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build_adapter
from models import tiny_bert
from torch import Tensor

from adaptdock import Dock as PublicDock
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.golden_probes import ask, recorded, sampled
from adaptdock.engine.inference.residency import Residency
from adaptdock.errors import FileError, MismatchError, ProbeError
from adaptdock.hub.artefact.card import MOST_VALUES, Card
from adaptdock.hub.artefact.file import AdapterFile, read_card, read_file, write_file
from adaptdock.plugins.contracts import Backbone, LoadOptions

TEXTS = ["ada met bob in oslo", "it rains in the north, again", "the train leaves at ten", "who sings here?"]
METHODS: Mapping[str, dict[str, Any]] = {
    "lora": {"rank": 3},
    "dora": {"rank": 3},
    "ia3": {},
    "prefix": {"length": 3},
    "bottleneck": {"reduction_factor": 4},
    "mam": {"length": 3, "reduction_factor": 4},
}
STRENGTH = 6
WEAK = ("dora", "ia3", "prefix")
"""Methods that change little in a tiny random model: less than bfloat16 could explain."""
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def half(model_folder: Path) -> Backbone:
    return load_backbone(str(model_folder), LoadOptions(device="cpu", dtype="bfloat16"))


def probed(backbone: Backbone, method: str = "lora", task: str = "ner", seed: int = 0) -> AdapterFile:
    """Return an adapter that acts strongly, as a trained one does, with its probes but without responses."""
    made = build_adapter(backbone, method, METHODS.get(method), labels=("A", "B", "C"), task=task, seed=seed)
    for name, tensor in made.tensors.items():
        tensor.mul_(1 if name.startswith("head.") else STRENGTH)
    adapter = recorded(Dock(backbone), made, TEXTS, "sample")
    assert adapter.card.probes is not None
    assert adapter.card.probes.responses
    answers = adapter.card.probes.model_copy(update={"responses": {}})
    return replace(adapter, card=adapter.card.model_copy(update={"probes": answers}))


def only(change: Callable[[str, Tensor], Tensor], head: bool) -> Callable[[AdapterFile, AdapterFile], AdapterFile]:
    """Return a fault that changes the tensors of the head, or all others."""

    def broken(adapter: AdapterFile, other: AdapterFile) -> AdapterFile:
        changed = {
            name: change(name, tensor) if name.startswith("head.") == head else tensor
            for name, tensor in adapter.tensors.items()
        }
        return AdapterFile(adapter.card, changed)

    return broken


def permuted(adapter: AdapterFile, other: AdapterFile) -> AdapterFile:
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in adapter.tensors.items():
        shapes.setdefault(tuple(tensor.shape), []).append(name)
    moved: Tensors = {}
    for names in shapes.values():
        moved |= {name: adapter.tensors[source] for name, source in zip(names, names[1:] + names[:1], strict=True)}
    return AdapterFile(adapter.card, moved)


FAULTS: Mapping[str, Callable[[AdapterFile, AdapterFile], AdapterFile]] = {
    "tensors zeroed": only(lambda _, tensor: torch.zeros_like(tensor), head=False),
    "tensors permuted": permuted,
    "tensors of another adapter": lambda adapter, other: AdapterFile(adapter.card, other.tensors),
    "scale dropped": only(lambda _, tensor: tensor * 0.25, head=False),
    "head re-initialised": only(lambda name, tensor: 0.02 * torch.ones_like(tensor), head=True),
    "head zeroed": only(lambda _, tensor: torch.zeros_like(tensor), head=True),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_broken_adapter_is_refused_and_a_sound_one_is_not(
    backbone: Backbone, half: Backbone, tmp_path: Path, method: str
) -> None:
    for task in ("ner", "topic"):
        sound, other = probed(backbone, method, task), probed(backbone, method, task, seed=5)
        for number, adapter in enumerate((sound, other)):
            write_file(tmp_path / f"{number}.safetensors", adapter)
            for loaded in (backbone, half):
                with Dock(loaded) as dock:
                    assert dock.load(tmp_path / f"{number}.safetensors") == method
        for fault, broken in FAULTS.items():
            path = tmp_path / "broken.safetensors"
            write_file(path, broken(sound, other))
            weak = method in WEAK and "head" not in fault and "another" not in fault
            for dock in (Dock(backbone),) if weak else (Dock(backbone), Dock(half)):
                with pytest.raises(ProbeError, match="when it was saved"):
                    pytest.fail(f"{fault} of {method} is docked: {dock.load(path)}")
                assert dock.names == []


def test_a_swapped_base_is_refused_even_with_the_right_fingerprint(tmp_path: Path, backbone: Backbone) -> None:
    adapter = probed(backbone)
    other = load_backbone(str(tiny_bert(tmp_path / "other", seed=3)), LoadOptions(device="cpu"))
    with pytest.raises(MismatchError, match="their weights differ"):
        Dock(other).proved(adapter)
    forged = adapter.card.backbone.model_copy(update={"fingerprint": other.fingerprint})
    with pytest.raises(ProbeError, match="is refused"):
        Dock(other).proved(replace(adapter, card=adapter.card.model_copy(update={"backbone": forged})))


def test_overflow_and_answers_of_another_size_are_refused(backbone: Backbone) -> None:
    adapter = probed(backbone)
    overflow = {name: tensor * 1e30 for name, tensor in adapter.tensors.items()}
    with pytest.raises((ProbeError, MismatchError)):
        Dock(backbone).proved(AdapterFile(adapter.card, overflow))
    assert adapter.card.probes is not None
    longer = [probe.model_copy(update={"input": f"{probe.input} bob"}) for probe in adapter.card.probes.probes]
    changed = adapter.card.probes.model_copy(update={"probes": longer})
    with pytest.raises(ProbeError):
        Dock(backbone).proved(replace(adapter, card=adapter.card.model_copy(update={"probes": changed})))


def test_probes_of_several_adapters_are_asked_together_and_as_alone(backbone: Backbone) -> None:
    dock = Dock(backbone)
    made = [probed(backbone, method) for method in METHODS]
    made.insert(2, build_adapter(backbone, "lora"))
    prepared = [dock.prepare(adapter) for adapter in made]
    together, alone = ask(dock, prepared), [ask(dock, [adapter])[0] for adapter in prepared]
    assert together[2] is alone[2] is None
    for mixed, single in zip(together, alone, strict=True):
        if mixed is not None and single is not None:
            assert mixed.good
            assert mixed.difference == pytest.approx(single.difference, abs=1e-4)
    assert dock.names == []


def test_the_probes_are_in_the_file_under_its_checksum(backbone: Backbone, tmp_path: Path) -> None:
    adapter, path = probed(backbone), tmp_path / "a.safetensors"
    write_file(path, adapter)
    card = read_card(path)
    assert card.probes == adapter.card.probes is not None
    assert [probe.input for probe in card.probes.probes] == TEXTS
    assert all(len(probe.values) <= MOST_VALUES for probe in card.probes.probes)
    assert card.proof == "4, of the task's sample, answered in float32"
    path.write_bytes(path.read_bytes().replace(b"ada met bob", b"ada got bob"))
    with pytest.raises(FileError, match="does not match its checksum"):
        read_file(path)
    bare = adapter.card.model_copy(update={"probes": None})
    write_file(tmp_path / "b.safetensors", AdapterFile(bare, adapter.tensors))
    assert b"probes" not in (tmp_path / "b.safetensors").read_bytes()
    assert read_card(tmp_path / "b.safetensors").proof == "no probes"


def test_probes_that_would_take_long_to_compute_are_no_adapter_file(backbone: Backbone, tmp_path: Path) -> None:
    adapter = probed(backbone)
    content = adapter.card.model_dump(mode="json")
    content["probes"]["probes"][0]["input"] = "a " * 4000
    with pytest.raises(ValueError, match="at most 4,096 are read"):
        Card.model_validate(content)
    for place in ("values", "responses"):
        huge = probed(backbone).card.model_dump(mode="json")
        if place == "values":
            huge["probes"]["probes"][0]["values"] = [1e308, 1e308]
        else:
            huge["probes"]["responses"] = {"head": [1e308]}
        with pytest.raises(ValueError, match=f"{place}.*\n.*Input should be less than"):
            Card.model_validate(huge)
    unread = content["probes"]["probes"][0] | {"input": {"tokens": 3}}
    fewer = content["probes"]["probes"][0] | {"input": TEXTS[0], "values": [1.0, 2.0]}
    short = Card.model_validate({**content, "probes": {**content["probes"], "probes": [fewer]}})
    with pytest.raises(ProbeError, match="is refused"):
        Dock(backbone).proved(AdapterFile(short, adapter.tensors))
    odd = Card.model_validate({**content, "probes": {**content["probes"], "probes": [unread]}})
    with pytest.raises(ProbeError, match="cannot be asked"):
        Dock(backbone).proved(AdapterFile(odd, adapter.tensors))


def test_a_content_is_asked_once_and_again_where_it_has_changed(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dock, path, batches = Dock(backbone), tmp_path / "a.safetensors", []
    sound = probed(backbone)
    write_file(path, sound)
    run = dock.run
    monkeypatch.setattr(dock, "run", lambda rows, features: batches.append(len(rows)) or run(rows, features))
    dock.load(path, "a")
    dock.load(path, "b")
    assert batches == [4]
    known = Residency(dock)
    known.know("c", path)
    with known.present(["c"]):
        assert batches == [4]
    write_file(path, FAULTS["tensors zeroed"](sound, sound))
    known.know("c", path)
    with pytest.raises(ProbeError), known.present(["c"]):
        pass
    with pytest.raises(ProbeError):
        dock.load(path, "a", replace=True)
    dock.close()
    with PublicDock(backbone) as unproved:
        assert unproved.load(path, probes=False) == "lora"
    assert replace(read_file(path), card=sound.card).sha256 == ""


def test_values_are_spread_over_all_logits() -> None:
    numbers = torch.arange(5000.0)
    assert len(sampled(numbers)) == MOST_VALUES
    gaps = sampled(numbers).diff()
    assert gaps.min() > 50
    assert gaps.max() < 400
    assert sampled(numbers[:7]).tolist() == list(range(7))
