"""Adapters that the real peft makes and saves, on tiny random models."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from architectures import CONFIGS
from peft import IA3Config, LoraConfig, PeftType, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft import get_peft_model as tuned
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}
NAMES = {0: "bad", 1: "so-so", 2: "good"}
LIMIT = 1e-5


def base_model(folder: Path, architecture: str, task: str, **changes: Any) -> Path:
    """Save a random model of the class for a task, once."""
    path = folder / f"{architecture}-{task}"
    if not path.exists():
        special = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
        config = AutoConfig.for_model(architecture, **{**special, **CONFIGS[architecture], **changes})
        config.id2label, config.label2id = NAMES, {name: number for number, name in NAMES.items()}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = getattr(transformers, CLASSES[task]).from_config(config)
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.08)
        model.save_pretrained(path)
    return path


def load(path: Path, task: str) -> PreTrainedModel:
    model = getattr(transformers, CLASSES[task]).from_pretrained(path)
    return model.eval()  # type: ignore[no-any-return]


def batch(model: PreTrainedModel, padded: bool = True) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, 100, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 7:] = 0
        mask[2, 4:] = 0
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(4, 100, (3, 6), generator=generator)
    return inputs


def theirs(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        output = model.eval()(**inputs)
    return output.logits if hasattr(output, "logits") else output[0]


@dataclass(frozen=True)
class Case:
    """An adapter of peft: the model, the task, the configuration, and what is to come of it."""

    architecture: str
    task: str
    config: Callable[..., Any]
    options: dict[str, Any]
    method: str
    padded: bool = True
    changes: dict[str, Any] = field(default_factory=dict)
    typed: bool = True
    """Whether the configuration has a task type; without, peft saves no head."""

    def __str__(self) -> str:
        options = "-".join(
            f"{name}={value}" for name, value in self.options.items() if name not in ("target_modules", "r")
        )
        return f"{self.architecture}-{self.task}-{self.method}-{options}".replace(" ", "")[:90]


ATTENTION = r".*(attention|attn|SelfAttention|EncDecAttention).*\.(query|value|q_lin|v_lin|q_proj|v_proj|q|v|c_attn)"
EVERY = "all-linear"
LORA = {"r": 4, "lora_alpha": 7, "target_modules": ATTENTION}
SAVED = {"distilbert": ["pre_classifier", "classifier"], "deberta-v2": ["pooler", "classifier"]}


def lora(architecture: str, task: str, method: str = "lora", **options: Any) -> Case:
    saved = {"modules_to_save": SAVED[architecture]} if task == "SEQ_CLS" and architecture in SAVED else {}
    return Case(architecture, task, LoraConfig, {**LORA, **saved, **options}, method)


def at_head(architecture: str, task: str, method: str = "lora", **options: Any) -> Case:
    """Return LoRA that reaches the last map of a head, which peft leaves alone where it knows the task."""
    return Case(architecture, task, LoraConfig, {**LORA, **options}, method, typed=False)


def lycoris(kind: str, architecture: str, task: str, **options: Any) -> Case:
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    return Case(architecture, task, config, {"r": 4, **options}, kind.lower())


def tuner(kind: str, architecture: str, task: str, **options: Any) -> Case:
    return Case(architecture, task, PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)], options, kind.lower())


Q = {"target_modules": ["query"]}
Q_PROJ = {"target_modules": ["q_proj"]}
VERA: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "SEQ_CLS", {"target_modules": ["query", "output.dense"]}),
    ("distilbert", "TOKEN_CLS", {"target_modules": ["q_lin", "lin1"], "save_projection": False}),
    ("gpt2", "CAUSAL_LM", {"target_modules": ["c_attn", "mlp.c_proj"]}),
    ("llama", "CAUSAL_LM", {"target_modules": ["q_proj", "up_proj"], "projection_prng_key": 3}),
    ("bert", "TOKEN_CLS", {**Q, "layers_to_transform": [1]}),
]
OFT: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "SEQ_CLS", {"target_modules": ["query", "output.dense"], "oft_block_size": 8}),
    ("bert", "SEQ_CLS", {**Q, "oft_block_size": 16, "use_cayley_neumann": False}),
    ("bert", "SEQ_CLS", {**Q, "block_share": True, "coft": True, "oft_block_size": 8, "eps": 0.5}),
    ("llama", "CAUSAL_LM", {**Q_PROJ, "oft_block_size": 8, "num_cayley_neumann_terms": 3}),
    ("bert", "SEQ_CLS", {**Q, "r": 4, "oft_block_size": 0}),
]
BOFT: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "SEQ_CLS", {"target_modules": ["query", "value"]}),
    ("llama", "CAUSAL_LM", {"target_modules": ["q_proj", "down_proj"], "boft_block_size": 8}),
    ("bert", "TOKEN_CLS", {**Q, "boft_block_size": 0, "boft_block_num": 4}),
]
PATTERNS = {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 3, "layer.1.attention.self.query": 5}}
CASES = [
    lora("bert", "SEQ_CLS"),
    lora("bert", "SEQ_CLS", use_rslora=True, **PATTERNS),
    lora("bert", "SEQ_CLS", "dora", use_dora=True, use_rslora=True, **PATTERNS),
    lora("bert", "SEQ_CLS", "dora", use_dora=True, bias="lora_only"),
    lora("bert", "SEQ_CLS", target_modules=EVERY),
    lora(
        "bert",
        "SEQ_CLS",
        target_modules=["dense"],
        modules_to_save=["classifier", "pooler"],
        exclude_modules="pooler.*",
    ),
    lora("bert", "TOKEN_CLS", bias="lora_only"),
    lora("bert", "TOKEN_CLS", target_modules=["query", "output.dense"], layers_to_transform=[1]),
    lora("bert", "FEATURE_EXTRACTION"),
    lora("roberta", "SEQ_CLS"),
    lora("distilbert", "SEQ_CLS"),
    lora("distilbert", "TOKEN_CLS", "dora", use_dora=True),
    lora("electra", "SEQ_CLS"),
    lora("albert", "SEQ_CLS"),
    lora("mpnet", "SEQ_CLS", target_modules=["attn.q", "attn.v"]),
    lora("gpt2", "CAUSAL_LM"),
    lora("gpt2", "CAUSAL_LM", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, rank_pattern={"c_attn": 3}),
    lora("gpt2", "CAUSAL_LM", "dora", use_dora=True),
    lora("gpt2", "SEQ_CLS"),
    lora("gpt2", "TOKEN_CLS"),
    lora("llama", "CAUSAL_LM", target_modules=EVERY, use_rslora=True),
    lora("llama", "SEQ_CLS"),
    lora("llama", "TOKEN_CLS"),
    lora("qwen3", "CAUSAL_LM", target_modules=["q_proj", "v_proj"], layers_to_transform=[0]),
    lora("modernbert", "SEQ_CLS", target_modules=["Wqkv"]),
    lora("modernbert", "SEQ_CLS", target_modules=["Wqkv"], modules_to_save=["head", "classifier"]),
    lora("modernbert", "TOKEN_CLS", target_modules=["Wqkv"]),
    lora("bert", "TOKEN_CLS", lora_bias=True),
    lora("bert", "SEQ_CLS", lora_bias=True, target_modules=["query", "value", "dense"], **PATTERNS),
    lora("albert", "SEQ_CLS", lora_bias=True, target_modules=["query", "pooler"], use_rslora=True),
    lora("deberta-v2", "SEQ_CLS", lora_bias=True, target_modules=["dense"], modules_to_save=["classifier"]),
    lora("roberta", "SEQ_CLS", lora_bias=True, target_modules=["dense"]),
    lora("bert", "SEQ_CLS", bias="lora_only", target_modules=["query", "pooler.dense"]),
    lora("bert", "SEQ_CLS", "dora", use_dora=True, target_modules=["query", "pooler.dense"]),
    at_head("bert", "SEQ_CLS", lora_bias=True, target_modules=["query", "pooler.dense", "classifier"]),
    at_head("bert", "TOKEN_CLS", target_modules=["query", "classifier"], rank_pattern={"classifier": 2}),
    at_head("bert", "TOKEN_CLS", "dora", use_dora=True, target_modules=["query", "classifier"]),
    at_head("llama", "SEQ_CLS", lora_bias=True, target_modules=["q_proj", "score"], alpha_pattern={"score": 3}),
    at_head("gpt2", "SEQ_CLS", lora_bias=True, use_rslora=True, target_modules=["c_attn", "score"]),
    lora(
        "bert", "TOKEN_CLS", lora_alpha=-3, target_modules=["query"], alpha_pattern={"layer.1.attention.self.query": 0}
    ),
    lora("t5", "SEQ_2_SEQ_LM"),
    lora("t5", "SEQ_2_SEQ_LM", target_modules=r"decoder.*EncDecAttention.(k|v)|encoder.*wo"),
    lora("bart", "SEQ_2_SEQ_LM", target_modules=["q_proj", "fc1"]),
    Case(
        "bert",
        "SEQ_CLS",
        IA3Config,
        {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]},
        "ia3",
    ),
    Case("roberta", "TOKEN_CLS", IA3Config, {"target_modules": ["key"], "feedforward_modules": []}, "ia3"),
    *(
        Case(
            "bert", "SEQ_CLS", IA3Config, {"target_modules": ["key", "pooler.dense"], "feedforward_modules": fed}, "ia3"
        )
        for fed in ([], ["pooler.dense"])
    ),
    Case(
        "gpt2",
        "CAUSAL_LM",
        IA3Config,
        {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]},
        "ia3",
    ),
    Case(
        "llama",
        "CAUSAL_LM",
        IA3Config,
        {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        "ia3",
    ),
    Case("t5", "SEQ_2_SEQ_LM", IA3Config, {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]}, "ia3"),
    Case("bert", "SEQ_CLS", PrefixTuningConfig, {"num_virtual_tokens": 5}, "prefix"),
    Case("roberta", "TOKEN_CLS", PrefixTuningConfig, {"num_virtual_tokens": 5}, "prefix"),
    Case("gpt2", "CAUSAL_LM", PrefixTuningConfig, {"num_virtual_tokens": 5}, "prefix"),
    Case(
        "gpt2",
        "CAUSAL_LM",
        PrefixTuningConfig,
        {"num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 16},
        "prefix",
    ),
    Case("llama", "CAUSAL_LM", PrefixTuningConfig, {"num_virtual_tokens": 5}, "prefix"),
    Case("opt", "CAUSAL_LM", PrefixTuningConfig, {"num_virtual_tokens": 5}, "prefix"),
    Case("bert", "SEQ_CLS", PromptTuningConfig, {"num_virtual_tokens": 5}, "prompt"),
    Case("bert", "TOKEN_CLS", PromptTuningConfig, {"num_virtual_tokens": 5}, "prompt"),
    Case("roberta", "SEQ_CLS", PromptTuningConfig, {"num_virtual_tokens": 5}, "prompt"),
    Case("gpt2", "CAUSAL_LM", PromptTuningConfig, {"num_virtual_tokens": 5}, "prompt"),
    Case("llama", "CAUSAL_LM", PromptTuningConfig, {"num_virtual_tokens": 5}, "prompt"),
    Case("llama", "SEQ_CLS", PromptTuningConfig, {"num_virtual_tokens": 5}, "prompt", padded=False),
    Case("t5", "SEQ_2_SEQ_LM", PromptTuningConfig, {"num_virtual_tokens": 5}, "prompt"),
    Case("gpt2", "CAUSAL_LM", PromptEncoderConfig, {"num_virtual_tokens": 5, "encoder_hidden_size": 16}, "prompt"),
    lycoris("LOHA", "bert", "SEQ_CLS", target_modules=["query", "output.dense"], rank_pattern={"query": 2}),
    lycoris("LOHA", "llama", "CAUSAL_LM", target_modules=["q_proj"], alpha=3, layers_to_transform=[0]),
    lycoris("LOKR", "bert", "SEQ_CLS", target_modules=["query"], alpha_pattern={"layer.1.attention.self.query": 5}),
    lycoris("LOKR", "bert", "TOKEN_CLS", target_modules=["query"], r=1, decompose_both=True, decompose_factor=4),
    lycoris("LOKR", "llama", "CAUSAL_LM", target_modules=["q_proj", "up_proj"], r=2, decompose_factor=3),
    *(tuner("VERA", architecture, task, r=4, **options) for architecture, task, options in VERA),
    *(tuner("OFT", architecture, task, **options) for architecture, task, options in OFT),
    *(tuner("BOFT", architecture, task, **options) for architecture, task, options in BOFT),
]


AT = {"target_modules": ["query", "value"]}
TYPES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *("ADAMSS", "BEFT", "BOFT", "DEFT", "DELORA", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "LOHA", "LOKR"),
            *("OFT", "OSF", "PEANUT", "PVERA", "RANDLORA", "SUPERTUNING", "TINYLORA", "UNILORA", "VERA"),
        ),
        AT,
    ),
    "ADALORA": {**AT, "total_step": 10},
    "C3A": {**AT, "block_size": 8},
    "FOURIERFT": {**AT, "n_frequency": 50},
    "LN_TUNING": {"target_modules": ["LayerNorm"]},
    "MISS": {**AT, "r": 4},
    "PSOFT": {**AT, "r": 8},
    "ROAD": {**AT, "group_size": 8},
    "SHIRA": {**AT, "r": 4},
    "TRAINABLE_TOKENS": {"target_modules": ["word_embeddings"], "token_indices": [7, 8, 50]},
    "VBLORA": {**AT, "vector_length": 8, "num_vectors": 20},
    "WAVEFT": {**AT, "n_frequency": 50},
}


def case(kind: str, architecture: str, task: str, method: str, typed: bool = True, **options: Any) -> Case:
    return Case(architecture, task, PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)], options, method, typed=typed)


OPTIONS = [
    case("LORA", "llama", "CAUSAL_LM", "embedding-lora,lora", target_modules=["q_proj", "lm_head"]),
    case("LORA", "llama", "CAUSAL_LM", "embedding-lora,lora", **Q_PROJ, modules_to_save=["lm_head", "embed_tokens"]),
    case("LORA", "gpt2", "CAUSAL_LM", "embedding-lora,lora", target_modules=["c_attn"], trainable_token_indices=[7, 9]),
    case("LORA", "bert", "SEQ_CLS", "bitfit,lora,norms", **Q, bias="all"),
    case("LORA", "gpt2", "CAUSAL_LM", "bitfit,lora,norms", target_modules=["c_attn"], bias="all"),
    case("LORA", "bert", "SEQ_CLS", "embedding-lora,lora", target_modules=["query", "word_embeddings"]),
    case("LORA", "llama", "CAUSAL_LM", "embedding-lora,lora", **Q_PROJ, trainable_token_indices=[7]),
    case("LORA", "llama", "CAUSAL_LM", "embedding-lora,lora", **Q_PROJ, modules_to_save=["embed_tokens"]),
    case("LORA", "llama", "CAUSAL_LM", "full,lora,norms", **Q_PROJ, modules_to_save=["o_proj", "norm"]),
    case("LORA", "bert", "SEQ_CLS", "full,lora,norms", **Q, modules_to_save=["classifier", "encoder.layer.1.output"]),
    case("LORA", "llama", "CAUSAL_LM", "lora", **Q_PROJ, init_lora_weights="pissa"),
    case("LORA", "llama", "CAUSAL_LM", "lora", **Q_PROJ, init_lora_weights="olora"),
    case("LORA", "llama", "CAUSAL_LM", "lora", **Q_PROJ, target_parameters=["mlp.up_proj.weight"]),
    case("LOHA", "bert", "TOKEN_CLS", "full", typed=False, target_modules=["query", "classifier"]),
    case("HIRA", "bert", "FEATURE_EXTRACTION", "full", **Q),
    case("LOKR", "t5", "SEQ_2_SEQ_LM", "lokr", target_modules=["q", "v"], decompose_both=True, decompose_factor=4),
    case("OFT", "bert", "SEQ_CLS", "full", target_modules=["query", "output.dense"], r=4, oft_block_size=0),
    case("OFT", "bert", "SEQ_CLS", "full", **Q, bias="oft_only"),
    case("VERA", "distilbert", "SEQ_CLS", "lora", target_modules=["q_lin"], bias="vera_only", r=4),
    case("BOFT", "bert", "SEQ_CLS", "full", typed=False, target_modules=["query", "classifier"]),
]


REFUSED = [
    case("LORA", "llama", "CAUSAL_LM", "", **Q_PROJ, layer_replication=[[0, 2], [0, 2]]),
    case("LORA", "llama", "CAUSAL_LM", "", **Q_PROJ, init_lora_weights="pissa_niter_4"),
    case("LORA", "gpt2", "CAUSAL_LM", "", target_modules=["c_attn"], modules_to_save=["wpe"]),
    case("LILY", "bert", "SEQ_CLS", "", **AT),
    case("POLY", "bert", "SEQ_CLS", "", **AT),
    case("MULTITASK_PROMPT_TUNING", "bert", "SEQ_CLS", "", num_virtual_tokens=3, num_ranks=2, num_tasks=2),
    case("PREFIX_TUNING", "t5", "SEQ_2_SEQ_LM", "", num_virtual_tokens=3),
]
"""Adapters that compute something other than a fixed change of weights, or act where no port is."""


def adapter_folder(case: Case, base: Path, folder: Path) -> Path:
    """Save an adapter of peft with random weights."""
    kind = case.task if case.typed else None
    model = tuned(load(base, case.task), case.config(task_type=kind, **case.options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                scale = 0.4 if "prompt" in name else 0.1
                parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    model.save_pretrained(folder)
    return folder
