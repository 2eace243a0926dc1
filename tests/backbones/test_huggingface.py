"""Loading: device, precision, and a backbone that stays frozen."""

from pathlib import Path

import pytest
import torch
from architectures import tiny_model
from builders import build_adapter
from models import tiny_bert, tiny_tokenizer
from transformers.utils import logging as transformers_logging

from adaptdock.backbones.huggingface import HuggingFace
from adaptdock.backbones.transformers.devices import pick_device
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import BackboneError
from adaptdock.plugins.contracts import Batch, LoadOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("name", ["nonsense", "cuda:77", "mps:3", ""])
def test_a_device_that_is_not_here_is_refused_in_one_short_line(name: str) -> None:
    with pytest.raises(BackboneError, match=f"the device '{name}' cannot be used: ") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("found", "expected"), [("cuda", "cuda"), ("mps", "mps"), (None, "cpu")])
def test_auto_takes_the_best_device_there_is(found: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device(found) if found else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: device)
    assert pick_device("auto") == expected


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_the_weights_have_the_precision_that_was_asked_for(folder: Path, dtype: str, expected: torch.dtype) -> None:
    backbone = HuggingFace().load(str(folder), LoadOptions(device="cpu", dtype=dtype))
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {expected}
    assert backbone.dtype == expected


def test_a_loaded_backbone_is_frozen_and_in_evaluation_mode(folder: Path) -> None:
    backbone = HuggingFace().load(str(folder), LoadOptions(device="cpu"))
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


def test_maps_that_an_architecture_keeps_in_float32_take_every_method(tmp_path: Path) -> None:
    tiny_model("t5").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    dock = Dock(HuggingFace().load(str(tmp_path), LoadOptions(device="cpu", dtype="float16")))
    weights = {name.rpartition(".")[0]: weight.dtype for name, weight in dock.backbone.model.named_parameters()}
    assert weights["encoder.block.0.layer.1.DenseReluDense.wo"] == torch.float32
    assert dock.backbone.dtype == torch.float16
    names: list[str | None] = [None]
    for name, method, options in (
        ("lora", "lora", {"roles": "all"}),
        ("prefix", "prefix", {}),
        ("bottleneck", "bottleneck", {}),
        ("parallel", "bottleneck", {"parallel": True}),
    ):
        names.append(dock.dock(build_adapter(dock.backbone, method, options, name=name)))
    ids = torch.arange(5, 14).repeat(len(names), 1)
    with dock.boarding(names) as rows:
        hidden = dock.hidden(rows, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert hidden.isfinite().all()
    assert all(not torch.equal(hidden[0], row) for row in hidden[1:])


def test_a_device_map_of_accelerate_gives_the_same_model(folder: Path) -> None:
    plain = HuggingFace().load(str(folder), LoadOptions(device="cpu"))
    mapped = HuggingFace().load(str(folder), LoadOptions(device_map="auto"))
    ids = torch.arange(5, 12)[None]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        found = mapped.forward(Batch({name: tensor.to(mapped.device) for name, tensor in given.items()}))
        torch.testing.assert_close(found.cpu().float(), plain.forward(Batch(given)), atol=1e-2, rtol=0)
    assert list(mapped.ports) == list(plain.ports)


def test_loading_prints_nothing_and_restores_the_verbosity_of_transformers(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = transformers_logging.get_verbosity()
    HuggingFace().load(str(folder), LoadOptions(device="cpu"))
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.get_verbosity() == before
