import json

import pytest
import torch
from builders import build_adapter

from adaptdock.hub.artefact.card import Card
from adaptdock.hub.artefact.file import read_card, read_file, write_file


@pytest.fixture
def a(adapt, backbone, tmp_path):
    """A file of rank 3, for places and persons."""
    write_file(tmp_path / "a.safetensors", build_adapter(backbone, "lora", {"rank": 3}, name="a", seed=1))
    return "a.safetensors"


@pytest.fixture
def b(adapt, backbone, tmp_path):
    """Another of rank 2."""
    write_file(tmp_path / "b.safetensors", build_adapter(backbone, "lora", {"rank": 2}, name="b", seed=2))
    return "b.safetensors"


def test_a_weighted_sum_is_an_adapter_that_can_be_used(adapt, a, b):
    ran = adapt("combine", a, b, "--weights", "0.7,0.3", "-o", "both.safetensors")
    assert ran.status == 0, ran
    for words in ("both.safetensors", "0.7 a, 0.3 b (linear)", "lora, rank 5", "head: average"):
        assert words in ran.out
    assert read_card("both.safetensors").name == "both"
    assert adapt("predict", "both.safetensors", "ada met bob").status == 0
    assert "0.7 a, 0.3 b (linear)" in adapt("inspect", "both.safetensors").out


def test_negative_weights_subtract_and_negate(adapt, a, b):
    assert adapt("combine", a, b, "--weights", "-1,1", "-o", "difference.safetensors").status == 0
    assert adapt("combine", a, "--weights", "-1", "-o", "negated.safetensors").status == 0
    assert adapt("combine", a, "--weights=-1", "-o", "again.safetensors").status == 0
    given, found = read_file(a).tensors, read_file("negated.safetensors").tensors
    scale = 16 / 3  # alpha / rank, which the new adapter's is not any more
    torch.testing.assert_close(found["layers.0.query.lora_b"], -scale * given["layers.0.query.lora_b"])


@pytest.mark.parametrize("how", ["svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_json_holds_the_card(adapt, a, b, how):
    more = [] if how == "svd" else ["--density", "0.5"]
    ran = adapt("combine", a, b, "--weights", "1,1", "--how", how, "--rank", 4, *more, "-o", "c.safetensors", "--json")
    found = json.loads(ran.out)
    card = Card.model_validate(found["card"])
    assert card.methods[0].options["rank"] == 4
    assert (card.training["combined"], card.training["how"]) == (["a", "b"], how)
    assert read_card("c.safetensors") == card


def test_a_name_a_head_and_a_precision_are_taken(adapt, a, b):
    ran = adapt(
        *("combine", a, b, "--weights", "1,1", "--head", b, "--name", "sum", "--store", "bfloat16"),
        *("-o", "c.safetensors"),
    )
    assert ran.status == 0, ran
    made = read_file("c.safetensors")
    assert (made.card.name, made.card.training["head"]) == ("sum", "b")
    assert {tensor.dtype for tensor in made.tensors.values()} == {torch.bfloat16}


def test_an_output_that_exists_is_replaced_only_when_asked_for(adapt, a, b):
    adapt("combine", a, "--weights", "1", "-o", b).failed(2, "b.safetensors exists already", "--overwrite")
    assert adapt("combine", a, "--weights", "1", "-o", b, "--overwrite").status == 0
    adapt("combine", a, "--weights", "1", "-o", ".").failed(2, "is a folder")


def test_what_cannot_work_is_told_before_a_backbone_is_loaded(adapt, a, b, backbone):
    out = ("-o", "c.safetensors", "--backbone", "/nowhere")
    adapt("combine", a, b, "--weights", "1", *out).failed(2, "1 weights for 2 adapters")
    adapt("combine", a, b, "--weights", "1,two", *out).failed(2, "--weights '1,two'", "0.7,0.3")
    adapt("combine", a, b, "--weights", "1,1", "--how", "tie", *out).failed(2, "combine: how", "'tie'")
    adapt("combine", a, b, "--weights", "1,1", "--density", "2", *out).failed(2, "density", "less than 1")
    adapt("combine", a, b, "--weights", "1,1", "--how", "ties", *out).failed(2, "say with --density")
    adapt("combine", a, b, "--weights", "1,1", "--name", "a+b", *out).failed(2, "'a+b' cannot be used")
    adapt("combine", a, "none.safetensors", "--weights", "1,1", *out).failed(1, "none.safetensors: there is no such")
    adapt("combine", "--weights", "1", *out).failed(2, "Missing argument 'FILES...'")
    write_file("x.safetensors", build_adapter(backbone, "lora", labels=("X",), name="x"))
    adapt("combine", a, "x.safetensors", "--weights", "1,1", *out).failed(2, "has labels ['X']", "--head FILE")
    write_file("p.safetensors", build_adapter(backbone, "prefix", name="p"))
    adapt("combine", a, "p.safetensors", "--weights", "1,1", *out).failed(2, "adapter 2 ('p') is prefix")
