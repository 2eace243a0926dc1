"""``adapt doctor``: replicas of complaints about adapters that do nothing, or less; sound ones raise no alarm."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, TrainableTokensConfig, VeraConfig
from peft_adapters import Case, adapter_folder, base_model
from safetensors.torch import load_file, save_file
from torch import Tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]
FRONT = "base_model.model."
Tensors = dict[str, Tensor]
Adapt = Callable[..., Any]
SOUND = {
    "lora": Case("bert", "SEQ_CLS", LoraConfig, {"target_modules": ["query"]}, ""),
    "causal": Case("llama", "CAUSAL_LM", LoraConfig, {"target_modules": "all-linear"}, ""),
    "lm_head": Case("llama", "CAUSAL_LM", LoraConfig, {"target_modules": ["lm_head"]}, ""),
    "ia3": Case("bert", "SEQ_CLS", IA3Config, {"target_modules": ["key"], "feedforward_modules": []}, ""),
    "embeddings": Case("bert", "SEQ_CLS", LoraConfig, {"target_modules": ["query", "word_embeddings"]}, ""),
    "tokens": Case(
        "bert",
        "SEQ_CLS",
        TrainableTokensConfig,
        {"target_modules": ["word_embeddings"], "token_indices": [7, 8, 50]},
        "",
    ),
    "vera": Case("bert", "SEQ_CLS", VeraConfig, {"target_modules": ["query"], "r": 4}, ""),
    "prefix": Case("llama", "CAUSAL_LM", PrefixTuningConfig, {"num_virtual_tokens": 3}, ""),
    "prompt": Case("bert", "SEQ_CLS", PromptTuningConfig, {"num_virtual_tokens": 3}, ""),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("doctor")
    for name, case in SOUND.items():
        adapter_folder(case, base_model(path, case.architecture, case.task), path / name)
    return path


def examined(adapt: Adapt, folder: Path, base: Path) -> tuple[int, list[dict[str, str]]]:
    ran = adapt("doctor", folder, "--backbone", base, "--json")
    assert ran.status in (0, 1), ran
    document = json.loads(ran.out)
    assert document["sound"] == (ran.status == 0)
    return ran.status, document["findings"]


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_adapter_raises_no_alarm(name: str, root: Path, adapt: Adapt) -> None:
    case = SOUND[name]
    status, findings = examined(adapt, root / name, root / f"{case.architecture}-{case.task}")
    assert (status, [finding for finding in findings if finding["kind"] == "fault"]) == (0, [])


def moved(tensors: Tensors) -> None:
    for name in list(tensors):
        if ".bert." in name:
            tensors[name.replace(f"{FRONT}bert.", FRONT)] = tensors.pop(name)


def zeroed(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.zero_()


def strange(tensors: Tensors) -> None:
    tensors[f"{FRONT}bert.encoder.layer.0.attention.self.qurey.lora_A.weight"] = torch.ones(8, 32)


def headless(tensors: Tensors) -> None:
    for name in [name for name in tensors if "classifier" in name]:
        del tensors[name]


def resized(tensors: Tensors) -> None:
    tensors[f"{FRONT}bert.embeddings.word_embeddings.weight"] = torch.ones(104, 32)


FAULTS: list[tuple[Callable[[Tensors], Any], dict[str, Any], str]] = [
    (moved, {}, "are under another path than in BertForSequenceClassification"),
    (zeroed, {}, "lora changes nothing on a small batch"),
    (lambda tensors: None, {"lora_alpha": 0}, "lora changes nothing"),
    (strange, {}, "match no module: .*qurey"),
    (resized, {}, "has 104 tokens, the backbone 100"),
    (lambda tensors: None, {"target_modules": ["query", "q_prj"]}, "target_modules names 'q_prj', and no module"),
    (lambda tensors: None, {"target_modules": "encoder.*q_proj"}, "the expression .* matches no module"),
    (lambda tensors: None, {"modules_to_save": ["classifier", "poler"]}, "names 'poler'.* did you mean pooler"),
    (lambda tensors: None, {"layers_to_transform": [7]}, r"names the layers \[7\], and the model has 2"),
    (lambda tensors: None, {"r": 4}, "cannot be imported: .* contradict each other"),
]


@pytest.mark.parametrize(("change", "options", "words"), FAULTS, ids=[words for _, _, words in FAULTS])
def test_a_fault_is_named(
    change: Callable[[Tensors], Any], options: dict[str, Any], words: str, root: Path, tmp_path: Path, adapt: Adapt
) -> None:
    folder = copied(root / "lora", tmp_path / "copy", change, options)
    status, findings = examined(adapt, folder, root / "bert-SEQ_CLS")
    faults = [finding["text"] for finding in findings if finding["kind"] == "fault"]
    assert status == 1
    assert any(re.search(words, fault) for fault in faults), faults


def copied(source: Path, folder: Path, change: Callable[[Tensors], Any], options: dict[str, Any]) -> Path:
    shutil.copytree(source, folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **options}))
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_a_head_that_nobody_has_is_a_fault_and_one_of_the_checkpoint_is_not(
    root: Path, tmp_path: Path, adapt: Adapt
) -> None:
    folder = copied(root / "lora", tmp_path / "copy", headless, {})
    bare = base_model(tmp_path, "bert", "FEATURE_EXTRACTION")
    _, findings = examined(adapt, folder, bare)
    assert any("its head is neither in the folder nor in the checkpoint" in finding["text"] for finding in findings)
    _, findings = examined(adapt, folder, root / "bert-SEQ_CLS")
    assert any("that of the backbone's checkpoint is used" in finding["text"] for finding in findings)


def test_tokens_of_the_folders_tokenizer_beyond_the_table_are_a_fault(root: Path, tmp_path: Path, adapt: Adapt) -> None:
    folder = copied(root / "lora", tmp_path / "copy", lambda tensors: None, {})
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 101}}, "added_tokens": []}))
    status, findings = examined(adapt, folder, root / "bert-SEQ_CLS")
    assert status == 1
    assert any("token number 101" in finding["text"] for finding in findings)


def test_another_base_model_is_a_note(root: Path, tmp_path: Path, adapt: Adapt) -> None:
    folder = copied(
        root / "lora", tmp_path / "copy", lambda tensors: None, {"base_model_name_or_path": "org/elsewhere"}
    )
    status, findings = examined(adapt, folder, root / "bert-SEQ_CLS")
    assert status == 0
    assert any("'org/elsewhere'" in finding["text"] for finding in findings)


def test_without_json_each_finding_is_a_line(root: Path, tmp_path: Path, adapt: Adapt) -> None:
    base = root / "bert-SEQ_CLS"
    assert adapt("doctor", root / "lora", "--backbone", base).out.endswith(": sound\n")
    folder = copied(root / "lora", tmp_path / "copy", zeroed, {})
    ran = adapt("doctor", folder, "--backbone", base)
    assert ran.status == 1
    assert "fault: lora changes nothing" in ran.out
    assert ran.out.endswith("1 fault\n")
