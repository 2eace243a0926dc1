"""Responses: they change with a single tensor in any precision of the backbone, and with nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders import build_adapter

from adaptdock.adapters.lora import LoRA
from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference import port_responses
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.golden_probes import recorded
from adaptdock.engine.inference.port_responses import changes, responses, rounded
from adaptdock.errors import ProbeError
from adaptdock.hub.artefact.file import AdapterFile, read_card, read_file, write_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Composite, LoadOptions

TEXTS = ["ada met bob in oslo", "it rains in the north, again"]
METHODS = [
    name
    for name in registry.names("method")
    if not (isinstance(kind := registry.load("method", name), type) and issubclass(kind, Composite))
]


@pytest.fixture(scope="module")
def coarse(model_folder: Path) -> Backbone:
    """The backbone in 8 bit, whose rounding hides a small fault from the logits."""
    return load_backbone(str(model_folder), LoadOptions(device="cpu", quantize="int8"))


def probed(backbone: Backbone, method: str) -> AdapterFile:
    options = {"roles": ("all",)} if method == "lora" else {}
    return recorded(Dock(backbone), build_adapter(backbone, method, options), TEXTS, "sample")


def each_tensor_zeroed(adapter: AdapterFile) -> Iterator[tuple[str, AdapterFile]]:
    for name, tensor in adapter.tensors.items():
        yield name, AdapterFile(adapter.card, {**adapter.tensors, name: torch.zeros_like(tensor)})


@pytest.mark.parametrize("method", METHODS)
def test_one_zeroed_tensor_is_refused_in_any_precision(backbone: Backbone, coarse: Backbone, method: str) -> None:
    adapter = probed(backbone, method)
    of_kind = {name.rpartition(".")[2]: name for name in adapter.tensors}
    faults = {name: broken for name, broken in each_tensor_zeroed(adapter) if name in of_kind.values()}
    assert len(faults) >= 2
    for loaded in (backbone, coarse):
        Dock(loaded).proved(adapter)
        for name, broken in faults.items():
            with pytest.raises(ProbeError, match="its response to fixed numbers at"):
                pytest.fail(f"{name} zeroed is docked: {Dock(loaded).proved(broken)}")


def test_the_place_of_a_fault_is_named(backbone: Backbone) -> None:
    adapter = probed(backbone, "lora")
    name = "layers.1.value.lora_b"
    broken = AdapterFile(adapter.card, {**adapter.tensors, name: adapter.tensors[name] / 2})
    with pytest.raises(ProbeError, match=r"at layers\.1\.value lora differs by [345]\d\.\d\d% of its size"):
        Dock(backbone).proved(broken)
    head = {**adapter.tensors, "head.bias": adapter.tensors["head.bias"] + 1}
    with pytest.raises(ProbeError, match="at head differs"):
        Dock(backbone).proved(AdapterFile(adapter.card, head))


def test_other_code_of_a_method_is_refused(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = probed(backbone, "lora")
    monkeypatch.setattr(LoRA, "fold", lambda self, site, parameters, backbone: dict(parameters))
    with pytest.raises(ProbeError, match="its response to fixed numbers at"):
        Dock(backbone).proved(adapter)


def test_responses_have_an_entry_of_their_own_that_older_releases_skip(backbone: Backbone, tmp_path: Path) -> None:
    adapter, path = probed(backbone, "lora"), tmp_path / "a.safetensors"
    write_file(path, adapter)
    card = read_card(path)
    assert card.probes == adapter.card.probes is not None
    assert len(card.probes.responses) == len({name.rpartition(".")[0] for name in adapter.tensors})
    assert "responses" not in card.probes.to_json()
    bare = card.probes.model_copy(update={"responses": {}})
    write_file(path, AdapterFile(adapter.card.model_copy(update={"probes": bare}), adapter.tensors))
    assert b"responses" not in path.read_bytes()
    broken = dict(each_tensor_zeroed(read_file(path)))["layers.0.query.lora_b"]
    assert Dock(backbone).prepare(broken)


def test_a_method_that_fails_on_fixed_numbers_costs_no_adapter(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = probed(backbone, "lora")

    def broken(*_: object) -> None:
        raise RuntimeError("it reads the model")

    with monkeypatch.context() as patch:
        patch.setattr(port_responses, "_at", broken)
        again = probed(backbone, "lora")
        assert again.card.probes is not None
        assert list(again.card.probes.responses) == ["head"]
        with pytest.raises(ProbeError, match="gives no finite response"):
            Dock(backbone).proved(adapter)
    assert Dock(backbone).proved(again)


def test_numbers_that_are_not_finite_are_a_change_and_are_not_stored() -> None:
    assert rounded({"head": [float("nan"), 0.0, 0.0]}) == {}
    (change,) = changes({"head": [1.0, 2.0, 3.0]}, {"head": [1.0, float("inf"), 3.0]})
    assert change is not None
    assert change.difference == float("inf")
    assert changes({}, {"head": [1.0, 2.0, 3.0]}) == []


def test_responses_are_the_same_after_rounding_to_16_bit_and_back(backbone: Backbone) -> None:
    adapter = build_adapter(backbone, "dora")
    half = {name: tensor.half() for name, tensor in adapter.tensors.items()}
    assembly = Dock(backbone).prepare(adapter).assembly
    stored = rounded(responses(assembly, half, backbone))
    again = responses(assembly, {name: tensor.float() for name, tensor in half.items()}, backbone)
    change = changes(stored, again)[0]
    assert change is not None
    assert change.difference < 1e-5
