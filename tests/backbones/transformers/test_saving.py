"""Which weights stand in the copy of a model, and which cannot."""

import json
from types import SimpleNamespace

import pytest
import torch
from architectures import tiny_backbone
from torch import nn
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D

from adaptdock.backbones.transformers.saving import with_maps
from adaptdock.errors import BackboneError


def test_only_what_is_changed_differs_and_the_model_stays_as_it_was():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = with_maps(model, {model[0]: ("first", torch.ones(2, 3), torch.zeros(2))})
    assert torch.equal(state["0.weight"], torch.ones(2, 3))
    assert torch.equal(state["0.bias"], torch.zeros(2))
    assert all(torch.equal(state[name], before[name]) for name in ("1.weight", "1.bias"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_conv1d_keeps_its_orientation_and_every_map_its_precision():
    model = nn.Sequential(Conv1D(2, 3), nn.Linear(3, 2).bfloat16())
    weight = torch.arange(6.0).view(2, 3)
    state = with_maps(model, {module: ("map", weight, torch.ones(2)) for module in model})
    assert torch.equal(state["0.weight"], weight.T)
    assert torch.equal(state["1.weight"], weight.bfloat16())


def test_a_map_without_bias_stays_so_unless_it_would_need_one():
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    state = with_maps(model, {model[0]: ("first", torch.ones(2, 3), torch.zeros(2))})
    assert state.keys() == {"0.weight"}
    with pytest.raises(BackboneError, match="first has no bias in this architecture"):
        with_maps(model, {model[0]: ("first", torch.ones(2, 3), torch.ones(2))})


def test_a_weight_that_another_module_uses_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    with pytest.raises(BackboneError, match="first shares its weight with 1"):
        with_maps(model, {model[0]: ("first", torch.ones(3, 3), torch.zeros(3))})


def test_a_module_that_stands_in_two_places_changes_in_both():
    shared = nn.Linear(3, 3)
    state = with_maps(nn.Sequential(shared, shared), {shared: ("first", torch.ones(3, 3), torch.zeros(3))})
    assert torch.equal(state["0.weight"], torch.ones(3, 3))
    assert torch.equal(state["1.weight"], torch.ones(3, 3))


def test_weights_that_wait_elsewhere_are_refused():
    model = nn.Sequential(nn.Linear(3, 3, device="meta"))
    with pytest.raises(BackboneError, match="not in memory"):
        with_maps(model, {model[0]: ("first", torch.ones(3, 3), torch.zeros(3))})


def test_a_copy_of_a_backbone_without_changes_is_the_backbone(tmp_path):
    backbone = tiny_backbone("llama")
    config = backbone.model.config.to_dict()
    backbone.save(tmp_path, {})
    again = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in backbone.model.state_dict().items())
    assert backbone.model.config.to_dict() == config


def quantizer(kind: str) -> SimpleNamespace:
    return SimpleNamespace(quantization_config=SimpleNamespace(quant_method=kind))


def test_a_gguf_file_that_was_unpacked_is_saved_as_the_floats_it_is_now(tmp_path):
    backbone = tiny_backbone("llama")
    backbone.model.hf_quantizer = quantizer("gguf")
    backbone.model.config.quantization_config = {"quant_method": "gguf"}
    backbone.save(tmp_path, {})
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert backbone.model.config.quantization_config
    assert AutoModel.from_pretrained(tmp_path).dtype == torch.float32


def test_a_checkpoint_that_is_quantised_is_refused(tmp_path):
    backbone = tiny_backbone("llama")
    backbone.model.hf_quantizer = quantizer("gptq")
    with pytest.raises(BackboneError, match=r"quantised \(gptq\): use the checkpoint"):
        backbone.save(tmp_path, {})
    assert not list(tmp_path.iterdir())
