"""Prompts: rows with and without, of any length, and the room that they take."""

from pathlib import Path

import pytest
import torch
from architectures import tiny_backbone
from builders import build_adapter

from adaptdock.engine.data.sources import Source
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import BackboneError, UsageError
from adaptdock.plugins.contracts import Backbone

IDS = torch.tensor([[2, 11, 23, 35, 47, 59, 3], [2, 8, 9, 10, 3, 0, 0], [2, 9, 7, 3, 0, 0, 0], [2, 5, 3, 0, 0, 0, 0]])
MASK = (IDS != 0).long()
LONG = "ada met bob in oslo. " * 20


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "opt", "llama", "mistral", "modernbert", "t5"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_prompts_of_different_lengths_give_in_one_batch_what_each_gives_alone(architecture: str, side: str) -> None:
    dock = Dock(tiny_backbone(architecture))
    for name, length in (("one", 1), ("five", 5), ("nine", 9)):
        dock.dock(build_adapter(dock.backbone, "prompt", {"length": length}, name=name, seed=length))
    names = ["five", None, "nine", "one+five"]
    ids, mask = (IDS, MASK) if side == "right" else (IDS.flip(1), MASK.flip(1))
    with dock.boarding(names) as rows:
        mixed = dock.hidden(rows, {"input_ids": ids, "attention_mask": mask})
        for number, row in enumerate(rows):
            given = {"input_ids": ids[number : number + 1], "attention_mask": mask[number : number + 1]}
            kept = mask[number].bool()
            alone, bare = dock.hidden([row], given)[0], dock.hidden([()], given)[0]
            torch.testing.assert_close(mixed[number][kept], alone[kept], atol=1e-5, rtol=0)
            assert not row or (alone - bare)[kept].abs().max() > 1e-3


def test_windows_are_shorter_by_the_prompts_of_a_row(dock: Dock) -> None:
    for name, length in (("long", 100), ("short", 10)):
        dock.dock(build_adapter(dock.backbone, "prompt", {"length": length}, name=name))
    dock.dock(build_adapter(dock.backbone, "lora", name="lora"))
    names = ["lora", "short", "long", "long+lora", "short+long"]
    with dock.boarding(names) as rows:
        assert [dock.reading(128, row).max_length for row in rows] == [128, 118, 28, 28, 18]
        assert dock.reading(64, rows[1]).max_length == 64
    for name in names:  # as long as the backbone can read, and longer
        assert dock.predict(name, [LONG])[0]["text"] == LONG


def test_training_plans_windows_that_leave_room_for_the_prompt(backbone: Backbone, tmp_path: Path) -> None:
    lines = "".join(f"{word}\t{'B-PER' if word == 'ada' else 'O'}\n" for word in LONG.split())
    for split in ("train", "validation"):
        (tmp_path / f"{split}.conll").write_text(lines)
    made = plan(backbone, "ner", "prompt", Source(data=str(tmp_path)), method_options={"length": 100})
    assert made.reading.max_length == backbone.max_length - 100
    assert max(len(feature.inputs["input_ids"]) for unit in made.units for feature in unit) == made.reading.max_length


def test_a_prompt_that_leaves_nothing_of_a_text_is_refused(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match=r"takes 128 positions from each text, and the backbone .* reads 128"):
        build_adapter(backbone, "prompt", {"length": 128})


def test_a_stack_of_prompts_that_leaves_nothing_of_a_text_is_refused(dock: Dock) -> None:
    for name in ("a", "b"):
        dock.dock(build_adapter(dock.backbone, "prompt", {"length": 64}, name=name))
    with pytest.raises(BackboneError, match="windows of 0 tokens have no room for text"):
        dock.predict("a+b", ["ada met bob"])
