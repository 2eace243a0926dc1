"""Length groups: short rows are not padded to the longest, and each row has the result that it has alone."""

import itertools
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from architectures import tiny_backbone, tiny_language_model
from builders import build_adapter
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_tokenizer

from adaptdock.backbones.huggingface import HuggingFaceBackbone
from adaptdock.engine.core import length_groups as module
from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.core.length_groups import PassCost, divided, length_groups, pass_cost
from adaptdock.engine.inference.continuous_batching import Steps, Text
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.generation import GenerationOptions
from adaptdock.engine.inference.text_vectors import text_vectors
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Feature

COST = PassCost(fixed=40, attention=0.001)
LENGTHS = st.lists(st.tuples(st.integers(1, 300), st.sampled_from([0, 5, 90])), min_size=1, max_size=40)
TEXTS = ["ada met bob in oslo on a rainy day in march", "rain", "a quick brown fox", "no.", "it is", "ada runs to oslo"]
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 3, "roles": "all"},
    "prefix": {"length": 3, "roles": "all"},
    "prompt": {"length": 3},
    "bottleneck": {"reduction_factor": 4},
}


def total(lengths: list[tuple[int, int]], groups: list[list[int]]) -> float:
    """The cost by its definition: each row is padded to the longest of its group in each half."""
    costs = 0.0
    for group in groups:
        longest = max(lengths[number][0] for number in group), max(lengths[number][1] for number in group)
        costs += COST.fixed + len(group) * sum(count + 0.001 * count * count for count in longest)
    return costs


@given(LENGTHS)
def test_every_row_is_in_one_group_and_no_division_by_one_cut_is_cheaper(lengths: list[tuple[int, int]]) -> None:
    groups = divided(lengths, COST)
    assert sorted(number for group in groups for number in group) == list(range(len(lengths)))
    assert all(group == sorted(group) for group in groups)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    cuts = [[order], *([order[:place], order[place:]] for place in range(1, len(order)))]
    assert total(lengths, groups) <= min(total(lengths, groups_of_cut) for groups_of_cut in cuts) + 1e-6


def test_the_division_is_the_best_of_all_divisions_of_rows_sorted_by_length() -> None:
    lengths = [(count, 0) for count in (7, 180, 33, 90, 8, 150, 35, 12)]
    order = sorted(range(8), key=lengths.__getitem__)
    least = min(
        total(lengths, [order[start:end] for start, end in itertools.pairwise([0, *cuts, 8])])
        for size in range(8)
        for cuts in itertools.combinations(range(1, 8), size)
    )
    assert total(lengths, divided(lengths, COST)) == pytest.approx(least)


def test_rows_of_equal_length_share_one_pass_in_their_order() -> None:
    assert divided([(20, 0)] * 5, COST) == [[0, 1, 2, 3, 4]]
    assert divided([(20, 0), (21, 0), (19, 0)], COST) == [[0, 1, 2]]
    assert divided([(9, 0), (200, 0), (9, 0), (200, 0), (9, 0)], COST) == [[1, 3], [0, 2, 4]]


def test_a_pass_of_minilm_costs_as_much_as_some_tens_of_positions(backbone: Backbone) -> None:
    cost = pass_cost(backbone)
    assert cost is not None
    assert cost.fixed > 1000  # a tiny model has little to compute in its positions
    features = [Feature({"input_ids": [5] * count}) for count in (3, 100)]
    assert length_groups(backbone, features) == [[0, 1]]


def test_neither_a_compiled_model_nor_a_recurrent_one_nor_a_gpu_divides_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = tiny_backbone("bert")
    assert pass_cost(backbone) is not None
    with monkeypatch.context() as patched:
        patched.setattr(type(backbone), "device", torch.device("meta"))
        assert pass_cost(backbone) is None
    with monkeypatch.context() as patched:
        patched.setattr(backbone.model, "_compiled_call_impl", lambda *_: None)
        assert pass_cost(backbone) is None
    monkeypatch.setattr(backbone, "ports", [port for port in backbone.ports if port.kind != "attention"])
    assert pass_cost(backbone) is None


def language_model(architecture: str) -> HuggingFaceBackbone:
    tokenizer = tiny_tokenizer()
    model = tiny_language_model(architecture, vocab_size=len(tokenizer))
    return HuggingFaceBackbone(f"tiny-{architecture}", model, tokenizer, f"blocks1:{architecture}")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Make passes cheap, so that every batch is divided, and count those of each batch."""
    counts: list[int] = []

    def recorded(lengths: list[module.Lengths], cost: PassCost) -> list[list[int]]:
        groups = divided(lengths, PassCost(1.0, cost.attention))
        counts.append(len(groups))
        return groups

    monkeypatch.setattr(module, "divided", recorded)
    yield counts
    assert max(counts) > 1, "no batch was divided"


@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_rows_of_a_divided_batch_come_back_in_their_order_as_each_is_alone(kind: str, passes: list[int]) -> None:
    backbone = tiny_backbone(kind) if kind == "bert" else language_model(kind)
    dock = Dock(backbone)
    for seed, (method, options) in enumerate(METHODS.items()):
        dock.dock(build_adapter(backbone, method, options, seed=seed), method)
    names = ["lora", "prompt", "bottleneck", "prefix", "lora+bottleneck", "prompt"]
    features = [Feature(dict(backbone.tokenizer(text, return_token_type_ids=False))) for text in TEXTS]
    with dock.boarding(names) as rows:
        together = dock.run(rows, features)
        alone = [dock.run([row], [feature])[0] for row, feature in zip(rows, features, strict=True)]
    for mixed, single in zip(together, alone, strict=True):
        torch.testing.assert_close(mixed, single, atol=1e-5, rtol=0)
    dock.close()


def test_answers_given_to_the_decoder_count_in_the_division(passes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("decoder-tags", "decoder_tags:DecoderTags", "adaptdock.tasks")
    plugins = (*registry._installed(), registry.Plugin("task", "decoder-tags", point.value, "tests", "0", point))
    monkeypatch.setattr(registry, "_installed", lambda: plugins)
    backbone = language_model("t5")
    dock = Dock(backbone)
    dock.dock(build_adapter(backbone, "lora", {"rank": 3, "roles": "all"}, task="decoder-tags"), "lora")
    answers = [[0, 7, 8, 9, 10, 11, 12, 13, 14, 15], [0, 7], [0, 5, 6, 7, 8, 9, 10, 11, 12, 13], [0, 9]]
    text = {"input_ids": [7, 8, 9], "attention_mask": [1] * 3}
    features = [
        Feature({**text, "decoder_input_ids": ids, "decoder_attention_mask": [1] * len(ids)}) for ids in answers
    ]
    with dock.boarding(["lora"] * 4) as rows:
        together = dock.run(rows, features)
        assert [len(logits) for logits in together] == [10, 2, 10, 2]
        for row, feature, logits in zip(rows, features, together, strict=True):
            torch.testing.assert_close(logits, dock.run([row], [feature])[0], atol=1e-5, rtol=0)
    assert passes[0] == 2
    dock.close()


def test_prompts_of_different_length_join_in_groups_and_write_the_text_of_each_alone(passes: list[int]) -> None:
    backbone = language_model("llama")
    dock = Dock(backbone)
    for seed, (method, options) in enumerate(METHODS.items()):
        dock.dock(build_adapter(backbone, method, options, seed=seed), method)
    prompts = [backbone.tokenizer(text)["input_ids"] for text in TEXTS]
    search = GenerationOptions(max_new_tokens=5)

    def written(numbers: list[int]) -> list[list[int]]:
        with dock.boarding([list(METHODS)[number % 4] for number in numbers]) as rows:
            steps = Steps(dock)
            texts = [Text(row, prompts[number], search) for row, number in zip(rows, numbers, strict=True)]
            steps.join(texts)
            while steps.texts:
                steps.step()
        return [text.tokens for text in texts]

    assert written([0, 1, 2, 3, 4, 5]) == [written([number])[0] for number in range(6)]
    dock.close()


def test_vectors_of_texts_do_not_depend_on_the_division(backbone: Backbone, passes: list[int]) -> None:
    task, dock = make_task("classification", {"labels": ["a", "b"]}), Dock(backbone)
    records = [{"text": text} for text in TEXTS]
    vectors = text_vectors(dock, (), task, records, 64)
    for record, vector in zip(records, vectors, strict=True):
        torch.testing.assert_close(text_vectors(dock, (), task, [record], 64)[0], vector, atol=1e-5, rtol=0)
    dock.close()
