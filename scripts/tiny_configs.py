"""Tiny configurations of any model type of transformers: the sizes of its own default, shrunk by their names."""

import re
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

LARGEST = 20_000_000
"""Parameters of a model that still counts as tiny."""
SIZES: tuple[tuple[str, int], ...] = (
    (
        r"(num|n)_(key_value|kv|query|linear_key|linear_num_key)_?(heads|groups)|.*num_key_value_heads|linear_num_key_heads",
        2,
    ),
    (r"(.*_)?(num|n)_?(.*_)?heads?|.*attention_heads|mamba_n_heads|index_n_heads|linear_num_(value_)?heads", 4),
    (r"qk_head_dim", 16),
    (r"(.*_)?head_(dim|size)|d_kv|d_head|dim_head|mamba_d_head|mamba_headdim|kv_channels|d_rel", 8),
    (r"qk_nope_head_dim|v_head_dim|rotary_dim", 8),
    (r"hidden_size(_global)?|d_model|n_embd|dim|emb_dim|embed_dim|lru_width|true_hidden_size|word_embed_proj_dim", 32),
    (r"(.*_)?(num|n)_(.*_)?layers?|(encoder|decoder)_layers|num_blocks|num_layers_per_stack", 2),
    (r"(.*_)?intermediate_size(_mlp)?|(.*_)?ffn_(dim|hidden_size)|d_ff|dff|dim_ff|d_inner|n_inner|hidden_dim", 64),
    (r"(moe|attention|expert)_hidden_size|feed_forward_size|inner_dim", 64),
    (r"(.*_)?max_(.*_)?(position_embeddings|positions|seq_len)|n_positions|n_ctx|context_length", 256),
    (r"(.*_)?(num|n)_(.*_)?experts|moe_num_experts", 4),
    (r"(num|n)_experts_per_(tok|token)|moe_top_?k|top_?k(_experts)?|moe_k", 2),
    (r"(n|num|topk)_group", 1),
    (r"(.*_)?(lora_)?rank|(.*_)?state_size|mamba_d_state", 8),
    (r"embedding_size|(.*_)?emb(ed|edding)?_(dim|size)", 32),
)
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
"""Rotary positions in three sections, as models with images have them."""
MROPED = (
    *("cosmos3_edge_text", "glm4v_text", "glm4v_moe_text", "glm_image_text", "glm_ocr_text"),
    *("qwen2_vl_text", "qwen2_5_vl_text"),
)
OVERRIDES: dict[str, dict[str, Any]] = {
    **{name: {"num_key_value_heads": 4} for name in ("dots3_note_text", "esmc", "glm5_next_text")},
    **{name: {"head_dim": 8} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl_text", "ministral")},
    **{name: {"rope_parameters": MROPE} for name in MROPED},
    "bailing_hybrid": {"n_group": 1, "topk_group": 1, "num_experts": 4},
    "bamba": {"mamba_n_heads": 8, "attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "esm": {"vocab_size": 261, "pad_token_id": 0, "mask_token_id": 4},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_ssm": 64},
    "funnel": {"architectures": []},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": 2 * ["sliding_attention", "full_attention"],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"mamba_n_heads": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "led": {"attention_window": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "mistral4": {
        "rope_parameters": {"rope_theta": 10000.0, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 256}
    },
    "mobilebert": {"intra_bottleneck_size": 32},
    "nemotron_h": {"n_groups": 2},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layer_types": 2 * ["mamba", "hybrid"]},
    "zamba2": {"n_mamba_heads": 8, "layers_block_type": ["linear_attention", "hybrid"], "hybrid_layer_ids": [1]},
}
"""What a model type wants beside smaller sizes."""


class TooLarge(Exception):
    """A shrunk configuration is still that of a large model."""


def tiny_config(model_type: str, words: int) -> PreTrainedConfig:
    """Return the configuration of a small model with a vocabulary of ``words`` tokens."""
    return _shrunk(CONFIG_MAPPING[model_type], words, OVERRIDES.get(model_type, {}))


def _shrunk(kind: type[PreTrainedConfig], words: int, overrides: Mapping[str, Any]) -> PreTrainedConfig:
    default = kind()
    changes = {name: _smaller(name, value, words) for name, value in _fields(default).items()}
    changes = {name: value for name, value in changes.items() if value is not None}
    if {"kv_lora_rank", "num_key_value_heads"} <= changes.keys():
        changes["num_key_value_heads"] = changes["num_attention_heads"]  # latent attention has no fewer keys
    changes |= overrides
    made = kind(**changes)
    layers, before = _layers(made), _layers(default)
    lists = {name: value for name, value in _fields(default).items() if isinstance(value, list) and name not in changes}
    by_layer = {name: _each_kind(value, layers) for name, value in lists.items() if len(value) == before > layers > 0}
    return kind(**{**changes, **by_layer}) if by_layer else made


def _fields(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what the configuration holds, with the configurations inside it as such."""
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    return config.to_dict() | {name: part for name, part in parts.items() if part is not None}


def _layers(config: PreTrainedConfig) -> int:
    return int(getattr(config, "num_hidden_layers", None) or 0)


def _each_kind(entries: list[Any], length: int) -> list[Any]:
    """Return a list of that length that begins with one entry of each kind."""
    kinds = [entry for number, entry in enumerate(entries) if entry not in entries[:number]]
    return (kinds + entries)[:length]


def _smaller(name: str, value: Any, words: int) -> Any:
    """Return the small value of a field; None where it stays as it is."""
    if isinstance(value, PreTrainedConfig):
        return _shrunk(type(value), words, {})
    if re.search(r"(_token|_pad)_ids?$", name):
        return [_token(name)] if isinstance(value, list) else None if value is None else _token(name)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    if re.fullmatch(r"(.*_)?vocab_size(_per_layer_input)?", name) and name != "type_vocab_size":
        return words
    size = next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)
    return None if size is None else min(size, value)


def _token(name: str) -> int:
    """Return the number of a special token, as the tokenizer of bytes has it."""
    return 0 if "pad" in name or "decoder_start" in name else 1 if "bos" in name else 2
