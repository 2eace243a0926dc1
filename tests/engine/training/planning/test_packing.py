"""Packing: examples that share a window are learnt as if each were alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_language_model
from torch import Tensor
from writers import writing_backbone, writing_tokenizer

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core.batches import collate, collate_labels
from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.run import run_of, train_plan
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.errors import BackboneError, UsageError
from adaptdock.plugins.contracts import Backbone

EXAMPLES = {"the cat": "sat", "the dog ran and the sea": "is a text", "the mat": "is told", "the sum": "ran and ran"}
ROWS = "".join(f'{{"prompt": "{prompt}", "answer": " {answer}"}}\n' for prompt, answer in EXAMPLES.items())


def planned(backbone: Backbone, folder: Path, packing: bool, method: str = "lora", task: str = "generation") -> Plan:
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text(ROWS)
    options = {"packing": packing, "max_length": 60, "epochs": 1}
    return plan(backbone, task, method, Source(data=str(folder)), options)


def gradients(made: Plan, folder: Path) -> tuple[float, dict[str, Tensor]]:
    """The loss of all windows of a plan in one batch, and what it says of each weight."""
    members = run_of(made, folder).members
    model = members.trainable()
    with torch.no_grad():
        for weight in model.parameters():  # a fresh LoRA does nothing
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    features = [feature for unit in made.units for feature in unit]
    members.dock.ports.acquire(made.assembly.sites)
    try:
        labels = [collate_labels(features, made.backbone.device)]
        loss = model(labels=labels, **collate(made.backbone, features))["loss"]
        loss.backward()
    finally:
        members.dock.ports.release(made.assembly.sites)
    return loss.item(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("method", ["lora", "prefix", "bottleneck"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_loss_and_gradients_are_those_of_each_example_alone(architecture: str, method: str, tmp_path: Path) -> None:
    backbone = writing_backbone(architecture)
    apart, together = (planned(backbone, tmp_path, packing, method) for packing in (False, True))
    assert len(together.units) < len(apart.units) == 4
    assert f"4 training examples packed into {len(together.units)} windows" in together.notes
    assert max(len(unit[0].labels) for unit in together.units) <= 60
    one, other = gradients(apart, tmp_path / "apart"), gradients(together, tmp_path / "together")
    assert other[0] == pytest.approx(one[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        torch.testing.assert_close(one[1][name], other[1][name], atol=1e-5, rtol=1e-3)


def test_only_answers_are_learnt_in_a_packed_window(tmp_path: Path) -> None:
    apart, together = (planned(writing_backbone("llama"), tmp_path, packing) for packing in (False, True))
    counted = [
        sorted(label for unit in made.units for label in unit[0].labels if label != -100) for made in (apart, together)
    ]
    assert counted[0] == counted[1]
    (window,) = [feature for unit in together.units for feature in unit]
    assert window.inputs["position_ids"].count(0) == len(EXAMPLES)
    assert window.labels.count(2) == len(EXAMPLES)  # each answer has its end


def test_a_packed_run_trains(tmp_path: Path) -> None:
    result = train_plan(planned(writing_backbone("llama"), tmp_path, packing=True), tmp_path / "run")
    assert result.adapter.card.metrics["validation"]["perplexity"] > 1


def test_what_cannot_be_packed_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for tasks that learn each next token"):
        plan(backbone, "ner", "lora", Source(), {"packing": True})
    with pytest.raises(UsageError, match="positions in front of each text"):
        planned(writing_backbone("llama"), tmp_path, packing=True, method="prompt")
    bloom = HuggingFaceBackbone("bloom", tiny_language_model("bloom", vocab_size=300), writing_tokenizer(), "blocks1:b")
    with pytest.raises(BackboneError, match="takes no positions"):
        planned(bloom, tmp_path, packing=True)
    with pytest.raises(UsageError, match="give one of them"):
        plan(writing_backbone("llama"), "generation", "lora", Source(), {"packing": True, "cache": True})


def test_a_backbone_in_which_examples_would_see_each_other_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = writing_backbone("llama")

    def with_mask(inputs: Any) -> dict[str, Tensor]:
        return dict(inputs)

    monkeypatch.setattr(backbone, "_divided", with_mask)
    with pytest.raises(BackboneError, match="would see each other in the architecture 'llama'"):
        planned(backbone, tmp_path, packing=True)
