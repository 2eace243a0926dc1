"""IA3: where its factors are."""

import pytest
from architectures import tiny_backbone

from adaptdock.engine.core.assembly import make_method
from adaptdock.errors import UnknownNameError


def sites(architecture: str, **options: object) -> list[tuple[str, str, int]]:
    method = make_method("ia3", options)
    found = method.sites(tiny_backbone(architecture).ports.within("encoder"))
    return [
        (site.port.role, site.side, parameter.shape[0])
        for site in found
        if site.port.layer == 1
        for parameter in method.parameters(site).values()
    ]


@pytest.mark.parametrize("architecture", ["bert", "opt", "t5"])
def test_keys_and_values_have_factors_on_what_comes_out_and_inner_activations_on_what_goes_in(architecture) -> None:
    wanted = [("key", "output", 32), ("value", "output", 32), ("ffn_down", "input", 64)]
    assert sites(architecture) == wanted


def test_where_keys_are_fused_with_queries_and_values_all_of_them_have_factors() -> None:
    assert sites("gpt2") == [("qkv", "output", 96), ("ffn_down", "input", 128)]


def test_the_feed_forward_block_can_be_left_out_and_any_role_taken() -> None:
    assert sites("bert", feed_forward=False) == [("key", "output", 32), ("value", "output", 32)]
    assert sites("bert", roles="query", feed_forward=False) == [("query", "output", 32)]
    every = sites("llama", roles="all")
    assert [role for role, side, _ in every if side == "output"] == [
        "query", "key", "value", "attention_output", "ffn_gate", "ffn_up",
    ]  # fmt: skip
    assert [role for role, side, _ in every if side == "input"] == ["ffn_down"]


def test_a_backbone_whose_experts_are_closed_takes_it_without_the_feed_forward_block() -> None:
    with pytest.raises(UnknownNameError, match="unknown linear role 'ffn_down'"):
        sites("mixtral")
    assert sites("mixtral", feed_forward=False) == [("key", "output", 16), ("value", "output", 16)]
