"""Batches: every index once, like lengths together, an order that a seed repeats."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.engine.core.batches import NOT_COUNTED, by_length, collate, collate_labels, shuffled_by_length
from adaptdock.plugins.contracts import Backbone, Feature

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
