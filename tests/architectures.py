"""Tiny random models of many architectures: 32 wide, 4 heads, half as many for keys and values where that exists."""

from typing import Any

import torch
from models import tiny_tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from adaptdock.backbones.huggingface import HuggingFaceBackbone

VOCABULARY = 100
_BASE = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_NAMED = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_BERT = {**_NAMED, "max_position_embeddings": 64}
_GROUPED = {**_BERT, "num_key_value_heads": 2, "head_dim": 8}
_TWO_HALVES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
    "electra": {**_BERT, "embedding_size": 16},
    "albert": {**_BERT, "embedding_size": 16, "num_hidden_layers": 3},
    "deberta-v2": {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "modernbert": {**_BERT, "local_attention": 6, "num_hidden_layers": 3, "cls_token_id": 2, "sep_token_id": 3},
    "mpnet": _BERT,
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": _BERT,
    "opt": {**_NAMED, "ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 4},
    "qwen3": _GROUPED,
    "gemma2": {**_GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_GROUPED, "sliding_window": 4, "num_hidden_layers": 6, "query_pre_attn_scalar": 8},
    "phi3": {**_GROUPED},
    "mixtral": {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "bart": _TWO_HALVES,
    "mbart": _TWO_HALVES,
    "pegasus": _TWO_HALVES,
}


def tiny_model(architecture: str, attention: str | None = None, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a random model; the weights depend on the architecture and the seed only."""
    config = AutoConfig.for_model(architecture, **{**_BASE, **CONFIGS[architecture], **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, **({"attn_implementation": attention} if attention else {}))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        for parameter in model.parameters():  # the usual start is so small that attention is even
            parameter.add_(torch.randn_like(parameter) * 0.08)
    return model


def tiny_language_model(architecture: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a random model with its map to the vocabulary; what it writes is never cut short."""
    config = AutoConfig.for_model(architecture, **{**_BASE, **CONFIGS[architecture], **changes})
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    model.generation_config.eos_token_id = None
    model.generation_config.forced_eos_token_id = None
    return model


def tiny_backbone(architecture: str, attention: str | None = None, **changes: Any) -> HuggingFaceBackbone:
    """Return a fresh backbone around a tiny random model."""
    model = tiny_model(architecture, attention, **changes)
    return HuggingFaceBackbone(f"tiny-{architecture}", model, tiny_tokenizer(), f"blocks1:tiny-{architecture}")
