"""The table of roles: names first, shapes where names do not tell."""

import pytest
import torch
from architectures import tiny_backbone
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from adaptdock.adapters.bottleneck import Bottleneck, BottleneckOptions
from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.backbones.transformers.roles import WORDS, is_expert, place, role
from adaptdock.errors import BackboneError, UnknownNameError

WIDTH = 32


@pytest.mark.parametrize(
    ("path", "inputs", "outputs", "expected"),
    [
        ("encoder.layer.3.attention.self.query", 32, 32, "query"),
        ("encoder.layer.3.attention.output.dense", 32, 32, "attention_output"),
        ("encoder.layer.3.output.dense", 64, 32, "ffn_down"),
        ("transformer.layer.0.attention.q_lin", 32, 32, "query"),
        ("encoder.albert_layer_groups.0.albert_layers.0.ffn_output", 64, 32, "ffn_down"),
        ("h.0.attn.c_proj", 32, 32, "attention_output"),
        ("h.0.mlp.c_proj", 128, 32, "ffn_down"),
        ("layers.0.attn.Wo", 32, 32, "attention_output"),
        ("layers.0.self_attn.output", 32, 32, "attention_output"),
        ("layers.0.feed_forward.swish_up", 32, 64, "ffn_up"),
        ("layers.0.feed_forward.swish_down", 64, 32, "ffn_down"),
        ("attentions.0.q_lin", 32, 32, "query"),
        ("attentions.0.out_lin", 32, 32, "attention_output"),
        ("ffns.0.lin1", 32, 64, "ffn_up"),
        ("layers.0.self_attn.v_proj.linear", 32, 32, "value"),
        ("encoder.layers.0.self_attention.self_attention.project_k", 32, 32, "key"),
        ("encoder.layers.0.self_attention.self_attention.attention_out", 32, 32, "attention_output"),
        ("layers.0.mlp.gate", 32, 4, "other"),
        ("layers.0.self_attn.relative", 32, 32, "other"),
        ("encoder.layer.0.bottleneck.attention.dense", 32, 32, "other"),
    ],
)
def test_a_linear_map_has_the_role_that_its_name_or_its_shape_tells(
    path: str, inputs: int, outputs: int, expected: str
) -> None:
    where = place(path, encoder_decoder=False)
    assert where is not None
    assert role(where, inputs, outputs, WIDTH) == expected


@pytest.mark.parametrize(
    ("path", "stack", "layer", "expected"),
    [
        ("encoder.block.1.layer.0.SelfAttention.q", "encoder", 1, "query"),
        ("decoder.block.1.layer.1.EncDecAttention.o", "decoder", 1, "cross_attention_output"),
        ("decoder.block.1.layer.2.DenseReluDense.wo", "decoder", 1, "ffn_down"),
        ("decoder.layers.4.encoder_attn.k_proj", "decoder", 4, "cross_key"),
        ("encoder.block.0.layer.0.LocalSelfAttention.v", "encoder", 0, "value"),
    ],
)
def test_the_halves_of_an_encoder_decoder_are_kept_apart(path: str, stack: str, layer: int, expected: str) -> None:
    where = place(path, encoder_decoder=True)
    assert where is not None
    assert (where.stack, where.layer, role(where, 32, 32, WIDTH)) == (stack, layer, expected)


def test_a_way_up_twice_as_wide_as_the_way_down_beside_it_holds_a_gate() -> None:
    where = place("layers.0.mlp.Wi", encoder_decoder=False)
    assert where is not None
    assert role(where, 32, 128, WIDTH, siblings=[(32, 128), (64, 32)]) == "ffn_gate_up"
    assert role(where, 32, 128, WIDTH, siblings=[(32, 128), (128, 32)]) == "ffn_up"


@pytest.mark.parametrize("path", ["embeddings.dense", "pooler.dense", "lm_head", "encoder.embed.projection"])
def test_what_stands_outside_the_layers_has_no_place(path: str) -> None:
    assert place(path, encoder_decoder=False) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("layers.0.block_sparse_moe.experts.3.w1", True),
        ("encoder.block.1.layer.1.mlp.experts.expert_0.wi", True),
        ("layers.0.mlp.experts", True),
        ("layers.0.mlp.shared_expert.up_proj", False),
        ("layers.0.mlp.up_proj", False),
    ],
)
def test_experts_are_known_by_their_path_and_shared_ones_are_none(path: str, expected: bool) -> None:
    assert is_expert(path) is expected


@given(st.sampled_from(sorted(WORDS["feed-forward"])), st.integers(1, 512), st.integers(1, 512))
def test_outside_attention_no_map_is_a_query_key_or_value(leaf: str, inputs: int, outputs: int) -> None:
    where = place(f"layers.0.mlp.{leaf}", encoder_decoder=False)
    assert where is not None
    assert role(where, inputs, outputs, WIDTH).startswith("ffn_")


def build(architecture: str, **options: object) -> HuggingFaceBackbone:
    config = AutoConfig.for_model(architecture, vocab_size=100, pad_token_id=0, **options)
    torch.manual_seed(0)
    return HuggingFaceBackbone(architecture, AutoModel.from_config(config), None, "blocks1:x")


BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def test_where_a_layer_has_several_blocks_a_parallel_bottleneck_reads_the_one_it_acts_on() -> None:
    mobile = build("mobilebert", **BERT, embedding_size=16, true_hidden_size=32, intra_bottleneck_size=32)
    grouped = build("albert", **BERT, embedding_size=16, inner_group_num=2)
    for backbone in (mobile, grouped):
        sites = Bottleneck(BottleneckOptions(parallel=True)).sites(backbone.ports)
        sources = [site.source.module for site in sites if site.source]
        assert len(set(sources)) == len(sources) == len(sites)
        for site in sites:
            assert site.source is not None
            if site.port.role == "ffn_down":
                shared = site.port.module.removesuffix("output.dense").removesuffix("_output")
                assert site.source.module.startswith(shared), site


def test_experts_have_no_port_and_the_refusal_says_why() -> None:
    sparse = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "num_experts": 2}
    backbone = build("switch_transformers", **sparse, num_decoder_layers=2, decoder_start_token_id=0)
    assert not [port for port in backbone.ports if "expert" in port.module]
    only_sparse = {"num_hidden_layers": 1, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    mixtral = build("mixtral", **{**BERT, **only_sparse})
    with pytest.raises(UnknownNameError, match=r"Not open: the rows of a batch cannot be told apart in .*experts"):
        mixtral.ports.select("linear", ("ffn_down",))


def test_a_router_that_gives_its_choice_has_no_port() -> None:
    sparse = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    assert not [port for port in build("phimoe", **BERT, **sparse).ports if "router" in port.module]


def test_maps_that_see_no_rows_have_no_port() -> None:
    names = {port.module.rpartition(".")[2] for port in tiny_backbone("deberta-v2").ports if port.kind == "linear"}
    assert names == {"query_proj", "key_proj", "value_proj", "dense"}


def test_a_vision_tower_beside_the_text_has_no_port() -> None:
    text = {**BERT, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 100}
    vision = {**BERT, "image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 99, "boi_token_index": 98, "eoi_token_index": 97, "mm_tokens_per_image": 4}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, **tokens)
    backbone = HuggingFaceBackbone("gemma3", AutoModel.from_config(config), None, "blocks1:x")
    assert len(backbone.ports) == 2 * (8 + 4 + 1) + 2  # maps and attention, norms, output; embeddings and last norm
    assert all(port.module.startswith("language_model.") for port in backbone.ports)


def test_the_width_is_that_of_the_hidden_states_not_of_the_layers() -> None:
    opt = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    assert build("opt", **opt, word_embed_proj_dim=16).width == 16


def test_a_model_without_a_known_linear_map_is_refused_with_what_it_has() -> None:
    with pytest.raises(BackboneError, match=r"no role was recognised in .*'squeezebert'.*Conv1d"):
        build("squeezebert", **BERT, embedding_size=32)


def test_a_model_that_does_not_read_tokens_is_refused() -> None:
    model = AutoModel.from_config(AutoConfig.for_model("vit", **BERT, image_size=28, patch_size=14))
    with pytest.raises(BackboneError, match=r"'vit' cannot be used: .* tokens did not come through ViTModel"):
        HuggingFaceBackbone("vit", model, None, "blocks1:x")
