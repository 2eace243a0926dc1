"""aLoRA: what peft computes, from the invocation on, in a text as a whole and in generated texts."""

from pathlib import Path

import pytest
import torch
from logits import ours
from models import tiny_tokenizer
from peft import LoraConfig, PeftModel
from peft_adapters import LIMIT, Case, adapter_folder, base_model, load, theirs

from adaptdock.engine.core.loading import load_backbone
from adaptdock.engine.inference.continuous_batching import Steps, Text
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.docking_trial import compare, effect
from adaptdock.engine.inference.generation import GenerationOptions, write_ids
from adaptdock.hub.interchange.conversion import export_adapter, import_adapter, library_result
from adaptdock.plugins.contracts import LoadOptions

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore:.*is_gradient_checkpointing:FutureWarning")
INVOCATION = [7, 8]
IDS = torch.tensor(
    [
        [11, 7, 8, 13, 14, 15, 16, 17],  # from the second token on
        [7, 8, 12, 13, 7, 8, 15, 7],  # from the fifth: the last occurrence counts
        [8, 7, 12, 13, 14, 15, 16, 7],  # never
        [11, 12, 7, 8, 13, 0, 0, 0],
    ]
)
INPUTS = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


def case(architecture: str, module: str) -> Case:
    options = {"r": 4, "target_modules": [module], "alora_invocation_tokens": INVOCATION}
    return Case(architecture, "CAUSAL_LM", LoraConfig, options, "alora")


@pytest.mark.parametrize(("architecture", "module"), [("llama", "q_proj"), ("gpt2", "c_attn")])
def test_it_computes_what_peft_computes_in_and_out(architecture: str, module: str, tmp_path: Path) -> None:
    base = base_model(tmp_path, architecture, "CAUSAL_LM")
    folder = adapter_folder(case(architecture, module), base, tmp_path / "peft")
    wanted = theirs(PeftModel.from_pretrained(load(base, "CAUSAL_LM"), folder), INPUTS)
    backbone = load_backbone(str(base), LoadOptions(device="cpu"))
    imported = import_adapter(folder, backbone, "theirs")
    assert [method.name for method in imported.file.card.methods] == ["alora"]
    kept = INPUTS["attention_mask"].bool()
    for row, logits in enumerate(ours(backbone, imported.file, INPUTS)):
        torch.testing.assert_close(logits[kept[row]], wanted[row][kept[row]], atol=LIMIT, rtol=0)
    bare = theirs(load(base, "CAUSAL_LM"), INPUTS)
    changed = (wanted - bare).abs().amax(-1) > 1e-4
    assert [int(row.int().argmax()) if row.any() else None for row in changed] == [1, 4, None, 2]

    export_adapter(imported.file, backbone, tmp_path / "again", "peft")
    again = theirs(PeftModel.from_pretrained(load(base, "CAUSAL_LM"), tmp_path / "again"), INPUTS)
    torch.testing.assert_close(again, wanted, atol=LIMIT, rtol=0)
    assert effect(Dock(backbone), imported.file) > 0  # the trial's tokens have the invocation
    assert compare(Dock(backbone), imported.file, library_result(folder, backbone)) < LIMIT


def test_a_generated_text_is_that_of_the_whole_text_computed_anew(tmp_path: Path) -> None:
    base = base_model(tmp_path, "llama", "CAUSAL_LM")
    backbone = load_backbone(str(base), LoadOptions(device="cpu"))
    adapter = import_adapter(adapter_folder(case("llama", "q_proj"), base, tmp_path / "peft"), backbone, "x").file
    backbone.tokenizer = tiny_tokenizer()
    dock = Dock(backbone)
    dock.dock(adapter, "invoked")
    prompts = [[11, 7, 8, 13], [11, 12, 13]]
    search = GenerationOptions(max_new_tokens=6)
    with dock.boarding(["invoked"] * 2) as rows:
        steps = Steps(dock)
        texts = [Text(row, prompt, search) for row, prompt in zip(rows, prompts, strict=True)]
        steps.join(texts)
        while steps.texts:
            steps.step()
        searched = write_ids(dock, rows, prompts, search)
    for text, prompt, tokens in zip(texts, prompts, searched.tolist(), strict=True):
        anew = list(prompt)
        for token in text.tokens:
            whole = {"input_ids": torch.tensor([anew]), "attention_mask": torch.ones(1, len(anew), dtype=torch.long)}
            (logits,) = ours(backbone, adapter, whole)
            assert int(logits[-1].argmax()) == token
            anew.append(token)
        assert tokens[: len(text.tokens)] == text.tokens
