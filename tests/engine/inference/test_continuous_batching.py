"""Texts written in steps are those that transformers' search writes, whoever joins and leaves meanwhile."""

from typing import Any

import pytest
import torch
from writers import untrained, writing_backbone

from adaptdock.engine.core.assembly import assemble, make_task, method_entries
from adaptdock.engine.inference.continuous_batching import Steps, Text
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.generation import GenerationOptions
from adaptdock.errors import BackboneError
from adaptdock.hub.artefact.file import AdapterFile

PROMPTS = ["the cat", "a text about the sea", "the dog ran and the cat sat", "sum"]
SEARCHES: list[dict[str, Any]] = [
    {"max_new_tokens": 9},
    {"max_new_tokens": 14, "do_sample": True, "seed": 5, "temperature": 0.7, "top_k": 20, "top_p": 0.9},
    {"max_new_tokens": 6, "repetition_penalty": 1.5},
    {"max_new_tokens": 12, "do_sample": True, "seed": 1, "top_k": 0},
]


def acting(architecture: str, method: str, seed: int, **options: Any) -> AdapterFile:
    """An adapter that changes what is written."""
    made = untrained(writing_backbone(architecture), "generation")
    methods = method_entries(method, options)
    assembly = assemble(writing_backbone(architecture), methods, make_task("generation", {}))
    generator = torch.Generator().manual_seed(seed)
    noisy = {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in assembly.start(generator).items()
    }
    return AdapterFile(made.card.model_copy(update={"methods": methods}), noisy)


@pytest.fixture(params=["llama", "gpt2", "opt"])
def opened(request: pytest.FixtureRequest) -> Any:
    dock = Dock(writing_backbone(request.param))
    dock.dock(acting(request.param, "lora", 0, rank=3), "one")
    dock.dock(acting(request.param, "prompt", 1, length=4), "two")
    dock.dock(acting(request.param, "embedding-lora", 3, rank=2, lm_head=True), "four")
    dock.dock(acting(request.param, "prefix", 2, length=3), "three")
    yield dock
    dock.close()


def test_each_text_is_what_it_is_alone_however_they_come_and_go(opened: Dock) -> None:
    names = ["two", "three", "four", None]
    expected = [
        opened.generate([name], [prompt], **search)[0]
        for name, prompt, search in zip(names, PROMPTS, SEARCHES, strict=True)
    ]
    steps = Steps(opened)
    with opened.boarding(names) as rows:
        texts = [
            Text(row, opened.backbone.tokenizer(prompt)["input_ids"], GenerationOptions(**search))
            for row, prompt, search in zip(rows, PROMPTS, SEARCHES, strict=True)
        ]
        steps.join(texts[:1])
        steps.step()
        steps.step()
        steps.join(texts[1:3])
        steps.step()
        steps.join(texts[3:])
        while steps.texts:
            steps.step()
    found = [opened.backbone.tokenizer.decode(text.tokens, skip_special_tokens=True) for text in texts]
    assert found == expected
    assert len(set(found)) == 4
    assert all(text.done for text in texts)


def test_a_text_that_leaves_early_changes_nothing_for_the_others(opened: Dock) -> None:
    (expected,) = opened.generate(["one"], [PROMPTS[0]], **SEARCHES[0])
    steps = Steps(opened)
    with opened.boarding(["two", "one"]) as rows:
        texts = [
            Text(row, opened.backbone.tokenizer(prompt)["input_ids"], GenerationOptions(**SEARCHES[0]))
            for row, prompt in zip(rows, (PROMPTS[2], PROMPTS[0]), strict=True)
        ]
        steps.join(texts)
        steps.step()
        steps.leave(texts[:1])
        while steps.texts:
            steps.step()
    assert len(texts[0].tokens) == 2
    assert opened.backbone.tokenizer.decode(texts[1].tokens, skip_special_tokens=True) == expected


def test_a_text_behind_a_prefix_that_moves_its_positions_is_what_it_is_alone() -> None:
    dock = Dock(writing_backbone("llama"))
    names = [dock.dock(acting("llama", "prefix", 3, length=3, move=True), "moved"), None]
    expected = [
        dock.generate([name], [prompt], max_new_tokens=9)[0] for name, prompt in zip(names, PROMPTS, strict=False)
    ]
    steps = Steps(dock)
    with dock.boarding(names) as rows:
        texts = [
            Text(row, dock.backbone.tokenizer(prompt)["input_ids"], GenerationOptions(max_new_tokens=9))
            for row, prompt in zip(rows, PROMPTS, strict=False)
        ]
        for text in texts:
            steps.join([text])
            steps.step()
        while steps.texts:
            steps.step()
    assert [dock.backbone.tokenizer.decode(text.tokens, skip_special_tokens=True) for text in texts] == expected
    dock.close()


def test_an_encoder_decoder_says_that_it_does_not_write_in_steps() -> None:
    dock = Dock(writing_backbone("bart"))
    with pytest.raises(BackboneError, match="does not write in steps"), dock.boarding([None]) as rows:
        Steps(dock).join([Text(rows[0], dock.backbone.tokenizer("a")["input_ids"], GenerationOptions())])


def test_texts_join_a_backbone_that_nobody_has_asked_yet_whether_it_writes_in_steps():
    fresh = writing_backbone.__wrapped__("llama")
    dock = Dock(fresh)
    dock.dock(untrained(fresh, "generation"), "lora")
    with dock.boarding(["lora"] * 2) as rows:
        texts = [Text(row, fresh.tokenizer(PROMPTS[0])["input_ids"], GenerationOptions()) for row in rows]
        Steps(dock).join(texts)
    assert [len(text.tokens) for text in texts] == [1, 1]
