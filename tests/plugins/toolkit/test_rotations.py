"""Rotations of orthogonal finetuning: peft's permutations, transforms, and block sizes that fit."""

import math

import pytest
import torch
from architectures import tiny_backbone
from builders import build_adapter
from peft.tuners.boft.layer import BOFTLayer
from peft.tuners.oft.layer import OFTRotationModule
from torch import Tensor

from adaptdock.engine.core.assembly import make_method
from adaptdock.errors import UsageError
from adaptdock.plugins.toolkit.rotations import butterfly_order, cayley, neumann, skew_symmetric


@pytest.mark.parametrize("size", [2, 4, 6])
@pytest.mark.parametrize("factor", [0, 1, 2])
def test_permutations_are_those_of_peft(size: int, factor: int) -> None:
    blocks, width = 8, 8 * size
    theirs = BOFTLayer.block_butterfly_perm(None, width, blocks // 2**factor, size // 2, 3)
    assert butterfly_order(width, blocks // 2**factor, size).equal(theirs)


@pytest.mark.parametrize("terms", [0, 1, 2, 3, 4, 5, 6, 9])
def test_transforms_are_those_of_peft(terms: int) -> None:
    triangles = 0.3 * torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    module = OFTRotationModule(3, 10, 5, 15, use_cayley_neumann=terms > 0, num_cayley_neumann_terms=terms)
    theirs = module._cayley_batch(triangles, 5, terms > 0, terms)
    skewed = skew_symmetric(triangles, 5)
    torch.testing.assert_close(neumann(skewed, terms) if terms else cayley(skewed), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_boft_is_a_product_of_permuted_block_diagonal_rotations(factors: int) -> None:
    """Peft itself has more than one factor only with its CUDA extension."""
    backbone = tiny_backbone("bert")
    method = make_method("boft", {"block_size": 4, "factors": factors, "roles": ["query"]})
    adapter = build_adapter(backbone, "boft", {"block_size": 4, "factors": factors, "roles": "query"})
    site = method.sites(backbone.ports)[0]
    parameters = {name: adapter.tensors[f"{site.port.name}.{name}"] for name in ("blocks", "scale_change")}
    rotation = torch.eye(32)
    for number, blocks in enumerate(parameters["blocks"]):
        skewed = 0.5 * (blocks - blocks.mT)
        order = BOFTLayer.block_butterfly_perm(None, 32, 8 // 2**number, 2, factors - 1)
        permutation = torch.eye(32)[order]
        rotation = permutation @ torch.block_diag(*cayley(skewed)) @ permutation.T @ rotation
    weight = backbone.weight(site.port)
    expected = (1 + parameters["scale_change"]).unsqueeze(1) * (weight @ rotation.T) - weight
    torch.testing.assert_close(method.fold(site, parameters, backbone)["weight_change"], expected, atol=1e-6, rtol=0)
    assert _distance(rotation @ rotation.T, torch.eye(32)) < 1e-5


def _distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


@pytest.mark.parametrize("method", ["oft", "boft"])
def test_a_block_size_that_does_not_fit_is_refused_with_those_that_do(method: str) -> None:
    with pytest.raises(UsageError, match=r"block_size 5 does not divide the 32 inputs .* can be 2, 4, 8, 16, 32"):
        make_method(method, {"block_size": 5}).sites(tiny_backbone("bert").ports)


def test_more_butterfly_factors_than_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match="3 factors need an even block_size, and a multiple of 4 blocks"):
        make_method("boft", {"block_size": 16, "factors": 3}).sites(tiny_backbone("bert").ports)


def test_a_neumann_series_with_many_terms_is_a_rotation() -> None:
    skewed = skew_symmetric(torch.full((1, 6), 0.1), 4)
    rotation = neumann(skewed, 40)[0]
    assert math.isclose(float(torch.linalg.det(rotation)), 1, abs_tol=1e-5)
    assert _distance(rotation @ rotation.T, torch.eye(4)) < 1e-5
