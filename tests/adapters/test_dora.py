"""DoRA: rows of any length, direction and length apart."""

import pytest
import torch
from architectures import tiny_backbone
from torch import Tensor

from adaptdock.adapters.dora import DoRA
from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.assembly import make_method
from adaptdock.plugins.contracts import ForwardPass, Site

OPTIONS = {"rank": 2, "roles": "query", "layers": "0"}


def fresh(noise: float, seed: int = 0) -> tuple[HuggingFaceBackbone, DoRA, Site, dict[str, Tensor]]:
    backbone = tiny_backbone("bert")
    method = make_method("dora", OPTIONS)
    assert isinstance(method, DoRA)
    (site,) = method.sites(backbone.ports)
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: parameter.shape for name, parameter in method.parameters(site).items()}
    return backbone, method, site, {name: noise * torch.randn(s, generator=generator) for name, s in shapes.items()}


def test_the_rows_of_the_merged_weight_are_as_long_as_the_frozen_ones_and_the_change() -> None:
    backbone, method, site, parameters = fresh(0.3)
    weight, bias = backbone.weight(site.port), backbone.bias(site.port)
    merged, unchanged = method.merge(site, method.fold(site, parameters, backbone), weight, bias)
    lengths = (weight.norm(dim=1) + parameters["magnitude_change"]).abs()
    torch.testing.assert_close(merged.norm(dim=1), lengths, atol=1e-5, rtol=0)
    direction = weight + 8 * parameters["lora_b"] @ parameters["lora_a"]
    cosine = torch.nn.functional.cosine_similarity(merged, direction).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-5, rtol=0)
    assert torch.equal(unchanged, bias)


def test_a_frozen_row_of_zeros_stays_finite() -> None:
    backbone, method, site, parameters = fresh(0.0)
    backbone.model.get_submodule(site.port.module).weight[0] = 0
    folded = method.fold(site, parameters, backbone)
    assert not folded["change"].any()


def test_the_length_below_takes_no_gradient() -> None:
    backbone, method, site, parameters = fresh(0.3)
    for tensor in parameters.values():
        tensor.requires_grad_()
    change = method.fold(site, parameters, backbone)["change"]
    found = torch.autograd.grad(change.sum(), list(parameters.values()), allow_unused=True)
    assert [grad is not None for grad in found] == [False, False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_stored_in_16_bit_starts_and_stays_in_its_precision(dtype: torch.dtype) -> None:
    backbone, method, site, parameters = fresh(0.3)
    stored = {name: tensor.to(dtype) for name, tensor in parameters.items()}
    folded = method.fold(site, stored, backbone)
    assert {tensor.dtype for tensor in folded.values()} == {dtype}
    exact = method.fold(site, {name: tensor.float() for name, tensor in stored.items()}, backbone)
    torch.testing.assert_close(folded["change"].float(), exact["change"], atol=0.02, rtol=0.02)


def test_the_input_of_the_update_alone_is_dropped_while_it_is_trained() -> None:
    backbone, _, site, parameters = fresh(0.3)
    method = make_method("dora", OPTIONS | {"dropout": 0.999})
    folded = {name: tensor.unsqueeze(0) for name, tensor in method.fold(site, parameters, backbone).items()}
    x, out = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    torch.manual_seed(0)
    dropped = method.transform(folded, x, out, ForwardPass(1, training=True))
    wanted = out + folded["change"] * (out - folded["bias"])
    close = (dropped - wanted).abs() < 1e-4
    assert close.float().mean() > 0.7
    assert not torch.allclose(method.transform(folded, x, out, ForwardPass(1)), wanted, atol=1e-2)
