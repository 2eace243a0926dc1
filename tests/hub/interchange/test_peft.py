"""Adapters of the real peft are imported to the logit, and exported so that it loads them again."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import CONFIGS
from builders import build_adapter
from logits import difference, ours
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft import get_peft_model as tuned
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import FileError, UsageError
from adaptdock.hub.interchange.conversion import export_adapter, import_adapter
from adaptdock.hub.interchange.incoming import Imported
from adaptdock.plugins.contracts import Backbone, LoadOptions

CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}
NAMES = {0: "bad", 1: "so-so", 2: "good"}
LIMIT = 1e-5

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Found missing adapter keys.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*has no bias. This means that merging:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape.*"),  # peft's of its own bias of B
]


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
]


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


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def backbones() -> dict[Path, Backbone]:
    return {}


def imported(folder: Path, base: Path, backbones: dict[Path, Backbone]) -> tuple[Backbone, Imported]:
    if base not in backbones:
        backbones[base] = load_backbone(str(base), LoadOptions(device="cpu"))
    return backbones[base], import_adapter(folder, backbones[base], "theirs")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_adapter_of_peft_has_its_logits_here_and_again_in_peft(
    case: Case, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, case.architecture, case.task, **case.changes)
    folder = adapter_folder(case, base, tmp_path / "peft")
    reference = PeftModel.from_pretrained(load(base, case.task), folder)
    inputs = batch(reference.get_base_model(), case.padded)
    wanted, bare = theirs(reference, inputs), theirs(load(base, case.task), inputs)
    backbone, result = imported(folder, base, backbones)
    assert [method.name for method in result.file.card.methods] == [case.method]
    if case.task == "FEATURE_EXTRACTION":  # the head's mean of the states
        weights = inputs["attention_mask"].unsqueeze(-1)
        wanted, bare = ((states * weights).sum(1) / weights.sum(1) for states in (wanted, bare))
    assert difference(ours(backbone, result.file, inputs), wanted, inputs) < LIMIT
    assert (wanted[:, -bare.shape[1] :] - bare).abs().max() > 0.01  # the adapter does something

    export_adapter(result.file, backbone, tmp_path / "again", "peft")
    again = PeftModel.from_pretrained(load(base, case.task), tmp_path / "again")
    if case.task != "FEATURE_EXTRACTION":
        assert difference(list(theirs(again, inputs)), wanted, inputs) < LIMIT
    twice = import_adapter(tmp_path / "again", backbone, "theirs")
    assert difference(ours(backbone, twice.file, inputs), wanted, inputs) < LIMIT


def test_names_of_classes_come_from_the_configuration_of_the_base(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    folder = adapter_folder(CASES[0], base, tmp_path / "peft")
    _, result = imported(folder, base, backbones)
    assert result.file.card.task.options["labels"] == ["bad", "so-so", "good"]
    labelled = import_adapter(folder, backbones[base], "x", ("a", "b", "c"))
    assert labelled.file.card.task.options["labels"] == ["a", "b", "c"]
    with pytest.raises(UsageError, match="3 classes"):
        import_adapter(folder, backbones[base], "x", ("a", "b"))


def test_a_bin_of_plain_tensors_is_read_and_one_with_code_is_not(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    folder = adapter_folder(CASES[0], base, tmp_path / "peft")
    _, result = imported(folder, base, backbones)
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    _, again = imported(folder, base, backbones)
    assert all(again.file.tensors[name].equal(tensor) for name, tensor in result.file.tensors.items())
    torch.save({"x": Evil()}, folder / "adapter_model.bin")
    with pytest.raises(FileError, match="not loaded"):
        imported(folder, base, backbones)


class Evil:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was run",))


def changed(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"peft_type": ["LORA"]}, "PEFT type"),
        ({"use_qalora": True}, "use_qalora"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"task_type": "QUESTION_ANS"}, "qa_outputs"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_its_name(
    change: dict[str, Any], words: str, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    folder = adapter_folder(CASES[0], base, tmp_path / "peft")
    changed(folder, **change)
    with pytest.raises(UsageError, match=words):
        imported(folder, base, backbones)


def test_an_adapter_of_another_shape_and_a_trained_bias_outside_are_refused(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    wider = base_model(bases, "bert", "TOKEN_CLS")
    folder = adapter_folder(lora("bert", "SEQ_CLS", bias="all"), base, tmp_path / "biases")
    with pytest.raises(UsageError, match=r"trained bias .*"):
        imported(folder, base, backbones)
    wide = base_model(bases / "wide", "bert", "SEQ_CLS", hidden_size=64)
    with pytest.raises(UsageError, match="another backbone"):
        imported(adapter_folder(CASES[0], wide, tmp_path / "wide"), wider, backbones)
    gpt2 = base_model(bases, "gpt2", "CAUSAL_LM")
    with pytest.raises(UsageError, match="no port there"):
        imported(adapter_folder(CASES[0], wide, tmp_path / "wide"), gpt2, backbones)


def test_t5_prefixes_and_embeddings_are_refused(tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]) -> None:
    base = base_model(bases, "t5", "SEQ_2_SEQ_LM")
    prefix = Case("t5", "SEQ_2_SEQ_LM", PrefixTuningConfig, {"num_virtual_tokens": 5}, "prefix")
    with pytest.raises(UsageError, match="prefix tuning of an encoder-decoder"):
        imported(adapter_folder(prefix, base, tmp_path / "prefix"), base, backbones)
    gpt2 = base_model(bases, "gpt2", "CAUSAL_LM")
    embedded = lora("gpt2", "CAUSAL_LM", target_modules=["c_attn"], modules_to_save=["wpe"])
    with pytest.raises(UsageError, match="wpe"):
        imported(adapter_folder(embedded, gpt2, tmp_path / "wpe"), gpt2, backbones)


def test_a_head_that_reads_the_mean_is_refused_with_the_way_out_and_the_rest_is_written(
    tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    backbone = backbones.setdefault(base, load_backbone(str(base), LoadOptions(device="cpu")))
    adapter = build_adapter(backbone, "lora", {"rank": 3}, labels=("a", "b"), task="classification")
    with pytest.raises(UsageError, match=r"it reads the mean state .* --without-head"):
        export_adapter(adapter, backbone, tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()
    export_adapter(adapter, backbone, tmp_path / "out", "peft", headless=True)
    model = PeftModel.from_pretrained(load(base, "FEATURE_EXTRACTION"), tmp_path / "out")
    inputs = batch(model.get_base_model())
    dock = Dock(backbone)
    name = dock.dock(adapter)
    with dock.boarding([name] * 3) as rows:
        states = dock.hidden(rows, inputs)
    unpadded = inputs["attention_mask"].bool()
    torch.testing.assert_close(theirs(model, inputs)[unpadded], states[unpadded], atol=LIMIT, rtol=0)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("prefix", {"length": 3}, "a gated prefix"),
        ("prefix", {"length": 3, "gate": False}, "a prefix that leaves positions alone"),
        ("bottleneck", {}, "the method bottleneck"),
        ("mam", {}, "an adapter of prefix and bottleneck"),
        ("full", {}, "the method full"),
    ],
)
def test_methods_that_peft_lacks_are_refused_by_name(
    method: str, options: dict[str, Any], words: str, tmp_path: Path, bases: Path, backbones: dict[Path, Backbone]
) -> None:
    base = base_model(bases, "bert", "TOKEN_CLS")
    backbone = backbones.setdefault(base, load_backbone(str(base), LoadOptions(device="cpu")))
    with pytest.raises(UsageError, match=words):
        export_adapter(build_adapter(backbone, method, options), backbone, tmp_path / "out", "peft")


def test_a_pooler_that_the_checkpoint_lacks_is_not_made_up(tmp_path: Path, bases: Path) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    folder = adapter_folder(CASES[0], base, tmp_path / "peft")
    transformers.BertModel.from_pretrained(base, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    backbone = load_backbone(str(tmp_path / "bare"), LoadOptions(device="cpu"))
    with pytest.raises(UsageError, match=r"pooler\.dense are neither in the adapter nor in the checkpoint"):
        import_adapter(folder, backbone, "x")


def test_a_pooler_under_lora_goes_through_a_quantized_backbone_and_back_to_peft(tmp_path: Path, bases: Path) -> None:
    base = base_model(bases, "bert", "SEQ_CLS")
    case = lora("bert", "SEQ_CLS", lora_bias=True, target_modules=["query", "pooler.dense"])
    folder = adapter_folder(case, base, tmp_path / "peft")
    reference = PeftModel.from_pretrained(load(base, "SEQ_CLS"), folder)
    inputs = batch(reference.get_base_model())
    backbone = load_backbone(str(base), LoadOptions(device="cpu", quantize="int8"))
    export_adapter(import_adapter(folder, backbone, "x").file, backbone, tmp_path / "again", "peft")
    again = PeftModel.from_pretrained(load(base, "SEQ_CLS"), tmp_path / "again")
    assert difference(list(theirs(again, inputs)), theirs(reference, inputs), inputs) < LIMIT
