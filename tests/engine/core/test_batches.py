"""Batches: every index once, like lengths together, an order that a seed repeats."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.engine.core.batches import (
    NOT_COUNTED,
    by_length,
    collate,
    collate_labels,
    collate_row_inputs,
    form,
    shuffled_by_length,
)
from adaptdock.errors import PluginError
from adaptdock.plugins.contracts import Backbone, Feature
from adaptdock.plugins.toolkit.heads import TokenHead

LENGTHS = st.lists(st.integers(1, 500), max_size=200)


@given(LENGTHS, st.integers(1, 40), st.integers(1, 2000))
def test_batches_hold_every_index_once_and_respect_both_limits(lengths: list[int], rows: int, tokens: int) -> None:
    batches = list(by_length(lengths, rows, tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= rows
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= tokens


@given(LENGTHS, st.integers(1, 40), st.integers(0, 5))
def test_a_training_order_is_a_permutation_that_its_seed_repeats(lengths: list[int], rows: int, seed: int) -> None:
    order = shuffled_by_length(lengths, rows, seed)
    assert sorted(order) == list(range(len(lengths)))
    assert order == shuffled_by_length(lengths, rows, seed)


def test_training_batches_hold_like_lengths_and_are_not_sorted() -> None:
    lengths = torch.randint(1, 100, (1600,), generator=torch.Generator().manual_seed(0)).tolist()
    order = shuffled_by_length(lengths, 16, seed=1)
    batches = [[lengths[index] for index in order[start : start + 16]] for start in range(0, 1600, 16)]
    padding = sum(max(batch) * 16 - sum(batch) for batch in batches) / sum(lengths)
    assert padding < 0.05
    means = [sum(batch) for batch in batches]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)
    assert order != shuffled_by_length(lengths, 16, seed=2)


def test_padding_is_on_the_right_and_its_labels_do_not_count(backbone: Backbone) -> None:
    short = Feature({"input_ids": [2, 7, 3], "attention_mask": [1, 1, 1]}, labels=[-100, 1, -100])
    long = Feature({"input_ids": [2, 7, 8, 9, 3], "attention_mask": [1] * 5}, labels=[-100, 1, 0, 2, -100])
    inputs = collate(backbone, [short, long])
    assert inputs["input_ids"].tolist()[0] == [2, 7, 3, 0, 0]
    assert inputs["attention_mask"].tolist()[0] == [1, 1, 1, 0, 0]
    assert collate_labels([short, long], torch.device("cpu")).tolist()[0] == [-100, 1, -100, NOT_COUNTED, NOT_COUNTED]


def test_lists_for_each_position_are_padded_with_lists_as_long(backbone: Backbone) -> None:
    short = Feature({"input_ids": [2], "characters": [[5, 6]]})
    long = Feature({"input_ids": [2, 7], "characters": [[5, 6], [7, 8]]})
    assert collate(backbone, [short, long])["characters"].tolist() == [[[5, 6], [0, 0]], [[5, 6], [7, 8]]]
    assert collate(backbone, [Feature({"input_ids": [2]}), long])["characters"].shape == (2, 2, 2)


class Marks(TokenHead):
    row_inputs = {"marks": -1, "weight": 0.0}


def test_labels_and_row_inputs_have_the_forms_of_the_contract_and_no_others() -> None:
    cpu, head = torch.device("cpu"), Marks(2)
    labelled = [Feature({}, [1.0, 0.0]), Feature({}, [1.0])]
    assert collate_labels(labelled, cpu).tolist() == [[1.0, 0.0], [1.0, -100.0]]
    assert collate_labels([Feature({}, 2), Feature({}, 0)], cpu).dtype == torch.long
    inputs_by_row: list[dict[str, Any]] = [{"marks": [3, 5], "weight": 0.5}, {"marks": [2], "weight": 1.0}]
    features = [Feature({}, row_inputs=inputs) for inputs in inputs_by_row]
    found = collate_row_inputs(head, features, cpu)
    assert found["marks"].tolist() == [[3, 5], [2, -1]]
    assert found["weight"].tolist() == [0.5, 1.0]
    assert collate_row_inputs(TokenHead(2), features, cpu) == {}
    with pytest.raises(PluginError, match="Marks reads the row input 'marks', and a feature has none"):
        collate_row_inputs(head, [*features, Feature({})], cpu)
    with pytest.raises(PluginError, match="labels of features are lists in some features and numbers in others"):
        collate_labels([Feature({}, [1]), Feature({}, 1)], cpu)
    for wrong in ([[1], [2, 3]], ["a"], "a", object()):
        with pytest.raises(PluginError, match="the labels of features cannot become a tensor"):
            collate_labels([Feature({}, wrong)], cpu)
    assert [form(value) for value in (1, 1.0, [1], [1.0, 2.0])] == [
        ("number", "int"),
        ("number", "float"),
        ("list", "int"),
        ("list", "float"),
    ]
    for wrong in (None, True, "a", [True], [[1]], [1, 2.0], (1, 2), torch.tensor(1)):
        with pytest.raises(PluginError, match="an int, a float, or a list of ints or of floats"):
            form(wrong)
