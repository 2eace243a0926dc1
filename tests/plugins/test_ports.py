"""Ports: chosen by kind, role and layer; what is not there is refused."""

from pathlib import Path
from typing import get_args

import pytest
from architectures import tiny_backbone

from adaptdock.backbones.transformers.roles import WORDS
from adaptdock.errors import BackboneError, UnknownNameError, UsageError
from adaptdock.plugins.methods import Side
from adaptdock.plugins.ports import Port, PortKind, Ports, parse_layers


def linear(role: str, layer: int, stack: str = "") -> Port:
    name = f"{stack + '.' if stack else ''}layers.{layer}.{role}"
    return Port(name, "linear", role, layer, stack, name, inputs=4, outputs=4)


PORTS = Ports([linear(role, layer) for layer in range(6) for role in ("query", "value", "ffn_down")], "toy")
FUSED = Ports([linear(role, layer) for layer in range(2) for role in ("qkv", "ffn_gate_up")], "fused")


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, {0, 1, 2, 3, 4, 5}), ("3-5", {3, 4, 5}), ("0,2", {0, 2}), ("-1", {5}), (" 1 , 3-4 ", {1, 3, 4})],
)
def test_layers_are_numbers_and_ranges(text: str | None, expected: set[int]) -> None:
    assert parse_layers(text, set(range(6))) == expected


@pytest.mark.parametrize("text", ["", "x", "6", "2-9", "5-3", "1-2-3", "--1"])
def test_layers_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="layers"):
        parse_layers(text, set(range(6)))


def test_roles_and_layers_choose_ports() -> None:
    chosen = PORTS.select("linear", ("query", "value"), "4-5")
    assert [port.name for port in chosen] == [
        "layers.4.query",
        "layers.4.value",
        "layers.5.query",
        "layers.5.value",
    ]
    assert len(PORTS.select("linear", ("all",))) == 18


def test_a_part_of_a_fused_map_is_that_map() -> None:
    assert {port.role for port in FUSED.select("linear", ("query", "value"))} == {"qkv"}
    assert FUSED.find("ffn_up", near=FUSED[2]).name == "layers.1.ffn_gate_up"


def test_an_unknown_role_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown linear role 'querry': did you mean query"):
        PORTS.select("linear", ("querry",))


def test_a_kind_of_port_that_is_closed_says_why() -> None:
    with pytest.raises(BackboneError, match="'toy' has no attention port"):
        PORTS.select("attention", ("attention",))


def test_one_half_of_an_encoder_decoder_can_be_had_alone() -> None:
    ports = Ports([linear("query", 0, "encoder"), linear("query", 0, "decoder")], "pair")
    assert [port.stack for port in ports.within("encoder")] == ["encoder"]
    assert len(PORTS.within("encoder")) == len(PORTS)


def test_the_document_names_every_kind_role_and_side() -> None:
    text = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    roles = {role for words in WORDS.values() for role in words.values()}
    backbones = [tiny_backbone(name) for name in ("bert", "gemma2", "t5")]
    for kind in get_args(PortKind):
        assert f"| `{kind}` |" in text, kind
        roles |= {role for backbone in backbones for role in backbone.ports.roles(kind)}
    assert {role for role in roles if f"`{role.removeprefix('cross_')}`" not in text} == set()
    assert {side for side in get_args(Side) if f"| `{side}`" not in text} == set()
