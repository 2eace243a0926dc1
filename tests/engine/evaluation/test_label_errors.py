"""Confident learning: the confident joint as the paper defines it, and folds that keep copies together."""

import numpy as np
import torch

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.evaluation.label_errors import LabelledVectors, groups_of, label_errors, out_of_fold, suspects
from adaptdock.plugins.contracts import Feature, FitExamples


def off_diagonal(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The confident joint of section 3.1 of the paper, an example at a time, where the class beats the label."""
    classes = probabilities.shape[1]
    thresholds = [probabilities[labels == j, j].mean() for j in range(classes)]
    counts = np.zeros((classes, classes), dtype=int)
    for label, row in zip(labels, probabilities, strict=True):
        above = [j for j in range(classes) if row[j] >= thresholds[j]]
        if above and max(row[above]) > row[label]:
            counts[label, max(above, key=lambda j: row[j])] += 1
    return counts


def test_suspects_are_the_examples_off_the_diagonal_of_the_confident_joint() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.full(4, 0.4), 200)
    labels = generator.permutation(np.arange(200) % 4)
    found = suspects(probabilities, labels)
    counts = np.zeros((4, 4), dtype=int)
    for suspect in found:
        assert suspect.label == labels[suspect.number]
        counts[suspect.label, suspect.suggestion] += 1
    expected = off_diagonal(probabilities, labels)
    assert expected.sum() > 20
    np.testing.assert_array_equal(counts, expected)
    differences = [suspect.suggestion_probability - suspect.label_probability for suspect in found]
    assert differences == sorted(differences, reverse=True)


def test_an_altered_label_is_found_by_the_other_folds_and_its_copy_does_not_hide_it() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    vectors = torch.eye(3)[labels] * 4 + 0.5 * torch.randn(60, 3, generator=generator)
    vectors[1] = vectors[0]
    altered = labels.clone()
    altered[0] = altered[1] = 2  # labels of a copy too
    groups = groups_of(["same", "same", *range(2, 60)])
    assert groups[:3] == [0, 0, 1]
    task = make_task("classification", {"labels": ("a", "b", "c")})
    probabilities = out_of_fold(task, FitExamples(vectors, altered, groups), 3)
    assert probabilities is not None
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert {suspect.number for suspect in suspects(probabilities, altered.numpy())} == {0, 1}


def test_a_wrong_label_is_named_with_its_place_and_what_the_other_records_say() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([number % 2 for number in range(40)])
    vectors = torch.randn(40, 8, generator=generator) / 4 + (2 * labels[:, None] - 1)
    records = [{"where": f"a.csv:{number}", "text": f"text {number}"} for number in range(40)]
    labels[7] = 0
    sources = [(number, Feature({}), 0) for number in range(40)]
    task = make_task("classification", {"labels": ("left", "right")})
    errors = label_errors(task, LabelledVectors(records, vectors, labels, sources), seed=0)
    assert errors is not None
    (error,) = errors
    assert (error.place, error.text, error.label, error.suggestion) == ("a.csv:7", "text 7", "left", "right")
    assert error.label_probability < 0.5 < error.suggestion_probability
    assert error.context == ""
    assert label_errors(task, LabelledVectors(records[:1], vectors[:1], labels[:1], sources[:1]), seed=0) is None


def test_a_word_is_shown_in_its_sentence_which_is_cut_on_both_sides() -> None:
    task = make_task("pos", {"labels": ("NOUN", "VERB")})
    tokens = [*("left " * 20).split(), "odd", *("right " * 20).split()]
    records = [{"where": f"a:{number}", "tokens": [*tokens, str(number)]} for number in range(40)]
    labels = torch.tensor([number % 2 for number in range(40)])
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)) / 4 + (2 * labels[:, None] - 1)
    labels[7] = 0
    feature = Feature({}, alignment=[(20, 0)])
    errors = label_errors(task, LabelledVectors(records, vectors, labels, [(n, feature, 0) for n in range(40)]), seed=0)
    assert errors is not None
    assert errors[0].text == "odd"
    assert errors[0].context == f"…{'left ' * 12}odd{' right' * 10}…"
