"""Generation: rows of different adapters in one search give what each gives alone, and what transformers gives."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from architectures import tiny_backbone, tiny_language_model
from builders import build_adapter
from cyclic_garbage import tensors_in_cycles
from models import tiny_tokenizer

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.inference.dock import Dock
from adaptdock.errors import BackboneError, UnknownNameError, UsageError
from adaptdock.hub.artefact.file import AdapterFile

TEXTS = ["once upon a time there was", "a dog", "lily and tom went to the park because", "he", "the end."]
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "seed": 3, "temperature": 1.5, "top_k": 20, "top_p": 0.9},
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"rank": 3, "roles": "all"}),
    "prefix": ("prefix", {"length": 3, "gate": False, "roles": "all"}),
    "bottleneck": ("bottleneck", {"reduction_factor": 4}),
    "parallel": ("bottleneck", {"reduction_factor": 4, "parallel": True}),
}
MODELS = ("llama", "gpt2", "gpt_neox", "opt", "t5", "bart")


@cache
def backbone(architecture: str) -> HuggingFaceBackbone:
    tokenizer = tiny_tokenizer()
    model = tiny_language_model(architecture, vocab_size=len(tokenizer))
    return HuggingFaceBackbone(f"tiny-{architecture}", model, tokenizer, f"blocks1:{architecture}")


def adapter(mine: HuggingFaceBackbone, name: str) -> AdapterFile:
    method, options = METHODS[name]
    built = build_adapter(mine, method, options, name=name)
    return AdapterFile(built.card, {key: 4 * tensor for key, tensor in built.tensors.items()})


@pytest.fixture(params=MODELS)
def dock(request: pytest.FixtureRequest) -> Any:
    mine = backbone(request.param)
    opened = Dock(mine)
    for name in METHODS:
        opened.dock(adapter(mine, name))
    yield opened
    opened.close()


@pytest.mark.parametrize("search", SEARCHES)
def test_generation_leaves_no_weights_to_the_garbage_collector(dock: Dock, search: str) -> None:
    options = {"max_new_tokens": 3, **SEARCHES[search]}
    assert tensors_in_cycles(lambda: dock.generate([None, *METHODS], TEXTS, **options)) == []


@pytest.mark.parametrize("search", SEARCHES)
def test_rows_of_different_adapters_write_together_what_each_writes_alone(dock: Dock, search: str) -> None:
    names = [None, *METHODS]
    options = {"max_new_tokens": 8, **SEARCHES[search]}
    together = dock.generate(names, TEXTS, **options)
    alone = [dock.generate([name], [text], **options)[0] for name, text in zip(names, TEXTS, strict=True)]
    assert together == alone
    bare = dock.generate(None, TEXTS, **options)
    assert together[0] == bare[0]
    assert together[1:] != bare[1:]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_bare_row_writes_what_transformers_writes(dock: Dock, beams: int) -> None:
    mine = dock.backbone
    inputs = mine.tokenizer(TEXTS[2], return_tensors="pt", return_token_type_ids=False)
    found = mine.generator.generate(**inputs, max_new_tokens=8, num_beams=beams, do_sample=False)[0]
    skipped = 1 if mine.encoder_decoder else inputs["input_ids"].shape[1]
    wanted = mine.tokenizer.decode(found[skipped:], skip_special_tokens=True)
    assert dock.generate([None, "lora"], [TEXTS[2], TEXTS[0]], max_new_tokens=8, num_beams=beams)[0] == wanted


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_a_lora_row_writes_what_a_model_with_the_update_in_its_weights_writes(architecture: str) -> None:
    mine, plain = backbone(architecture), copy.deepcopy(backbone(architecture).generator)
    made = adapter(mine, "lora")
    with torch.no_grad():
        for port in mine.ports.select("linear", ("all",)):
            if port.stack == "decoder":  # the adapter's task reads the encoder
                continue
            a, b = (made.tensors[f"{port.name}.lora_{half}"] for half in "ab")
            path = port.module if architecture == "t5" else f"model.{port.module}"
            plain.get_submodule(path).weight += 16 / 3 * b @ a
    inputs = mine.tokenizer(TEXTS[2], return_tensors="pt", return_token_type_ids=False)
    found = plain.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
    skipped = 1 if architecture == "t5" else inputs["input_ids"].shape[1]
    dock = Dock(mine)
    dock.dock(made)
    dock.dock(adapter(mine, "prefix"))
    answers = dock.generate(["prefix", "lora"], [TEXTS[0], TEXTS[2]], max_new_tokens=8)
    dock.close()
    assert answers[1] == mine.tokenizer.decode(found[skipped:], skip_special_tokens=True)


def test_each_seed_draws_its_own_text_and_the_process_draws_on(dock: Dock) -> None:
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    first = torch.rand(1)
    texts = [dock.generate("lora", TEXTS[:1], max_new_tokens=12, do_sample=True, seed=seed)[0] for seed in range(4)]
    assert len(set(texts)) > 1
    assert torch.equal(torch.cat([first, torch.rand(1)]), wanted)


def test_draws_follow_the_probabilities_of_the_model() -> None:
    from adaptdock.backbones.transformers.sampling import Gumbel

    probabilities = torch.tensor([0.6, 0.3, 0.1])
    noise = Gumbel([7], torch.device("cpu"))
    drawn = [int(noise(torch.empty(0), probabilities.log()[None])[0].argmax()) for _ in range(4000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=3) / len(drawn)
    torch.testing.assert_close(shares, probabilities, atol=0.03, rtol=0)


def test_a_backbone_without_a_vocabulary_says_that_it_cannot_write() -> None:
    with pytest.raises(BackboneError, match="cannot write: as BertModel it has no map to a vocabulary"):
        Dock(tiny_backbone("bert")).generate(None, TEXTS, max_new_tokens=4)


def test_bad_requests_to_write_are_refused() -> None:
    dock = Dock(backbone("llama"))
    with pytest.raises(UnknownNameError, match="row 1"):
        dock.generate([None, "nobody"], TEXTS[:2])
    with pytest.raises(UsageError, match="beams and sampling are two ways"):
        dock.generate(None, TEXTS, num_beams=2, do_sample=True)
    with pytest.raises(UsageError, match="2 adapter names for 5 texts"):
        dock.generate([None, None], TEXTS)
    with pytest.raises(UsageError, match="has 64 positions, of which prompts and what it shall write leave 54"):
        dock.generate(None, ["a " * 60], max_new_tokens=10)
