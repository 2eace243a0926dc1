"""Linear heads fitted on frozen vectors, against scikit-learn on the same vectors."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from adaptdock.plugins.contracts import FitExamples
from adaptdock.plugins.toolkit.linear_fit import fit_classes, fit_numbers, fit_sets


def drawn(count: int, classes: int, noise: float = 1.0, width: int = 12) -> FitExamples:
    """Vectors around a centre for each class, far from zero."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=generator)
    vectors = 5 + centres[labels] + noise * torch.randn(count, width, generator=generator)
    return FitExamples(vectors, labels, list(range(count)))


def logits(head: dict[str, Tensor] | None, vectors: Tensor) -> Tensor:
    assert head is not None
    return vectors @ head["weight"].T + head["bias"]


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_are_those_of_logistic_regression_on_centred_vectors_of_length_one(classes: int) -> None:
    examples = drawn(60, classes)
    centred = examples.vectors.double().numpy()
    centred = centred - centred.mean(0)
    centred /= np.linalg.norm(centred, axis=1).mean()
    expected = LogisticRegression(C=3.0, max_iter=1000).fit(centred, examples.labels.numpy()).predict_proba(centred)
    found = logits(fit_classes(examples, classes, 3.0), examples.vectors).softmax(-1)
    assert np.allclose(found.numpy(), expected, atol=2e-3)


def test_cross_validation_regularises_noise_more_than_a_clear_signal() -> None:
    clear, noisy = (fit_classes(drawn(60, 2, noise), 2) for noise in (0.3, 6.0))
    assert clear is not None
    assert noisy is not None
    sure, unsure = (
        logits(head, drawn(60, 2, noise).vectors).softmax(-1).amax(-1).mean()
        for head, noise in ((clear, 0.3), (noisy, 6.0))
    )
    assert sure > 0.95
    assert unsure < 0.8


def test_a_class_without_examples_is_never_the_answer_and_one_class_alone_gives_no_head() -> None:
    examples = drawn(30, 3)
    assert set(logits(fit_classes(examples, 5), examples.vectors).argmax(-1).tolist()) <= {0, 1, 2}
    alone = FitExamples(examples.vectors, torch.zeros(30, dtype=torch.long), examples.groups)
    assert fit_classes(alone, 2) is None


@pytest.mark.parametrize("count", [2, 3])
def test_one_example_a_class_is_enough(count: int) -> None:
    examples = drawn(count, count)
    assert logits(fit_classes(examples, count), examples.vectors).argmax(-1).tolist() == list(range(count))


def test_vectors_of_a_group_are_never_on_both_sides() -> None:
    """Eight copies of random vectors: copies on both sides would make the weakest regularisation look best."""
    single = drawn(16, 2, noise=20.0)
    copies = FitExamples(single.vectors.repeat(8, 1), single.labels.repeat(8), list(range(16)) * 8)
    apart, together = (
        fit_classes(FitExamples(copies.vectors, copies.labels, groups), 2)
        for groups in (copies.groups, list(range(128)))
    )
    spreads = [logits(head, copies.vectors).diff(dim=-1).abs().mean() for head in (apart, together)]
    assert spreads[0] < spreads[1] / 2


def test_weights_of_classes_multiply_their_loss() -> None:
    examples = drawn(40, 2, noise=4.0)
    weighted = FitExamples(examples.vectors, examples.labels, examples.groups, torch.tensor([0.1, 10.0]))
    plain, shifted = (
        logits(fit_classes(given, 2, 1.0), given.vectors).argmax(-1).float().mean() for given in (examples, weighted)
    )
    assert plain < shifted == 1.0


def test_each_of_several_labels_has_a_regression_of_its_own() -> None:
    examples = drawn(60, 4, noise=0.3)
    sets = torch.stack([examples.labels < 2, examples.labels % 2 == 0, examples.labels >= 0, examples.labels < 0], -1)
    found = logits(fit_sets(FitExamples(examples.vectors, sets.long(), examples.groups)), examples.vectors) > 0
    assert torch.equal(found, sets)


def test_sets_have_the_probabilities_of_one_logistic_regression_for_each_label() -> None:
    examples = drawn(80, 4, noise=2.0)
    sets = torch.stack([examples.labels < 2, examples.labels == 3], -1).long()
    weights = torch.tensor([1.0, 5.0])
    centred = (examples.vectors - examples.vectors.mean(0)).double().numpy()
    centred /= np.linalg.norm(centred, axis=1).mean()
    head = fit_sets(FitExamples(examples.vectors, sets, examples.groups, weights), 3.0)
    for number, weight in enumerate(weights.tolist()):
        oracle = LogisticRegression(C=3.0, max_iter=1000, class_weight={0: 1.0, 1: weight})
        expected = oracle.fit(centred, sets[:, number].numpy()).predict_proba(centred)[:, 1]
        probabilities = logits(head, examples.vectors)[:, number].sigmoid()
        assert np.allclose(probabilities.numpy(), expected, atol=2e-3)


def test_a_single_label_of_a_set_may_be_a_list_of_numbers() -> None:
    examples = drawn(40, 2, noise=0.3)
    head = fit_sets(FitExamples(examples.vectors, examples.labels.float(), examples.groups))
    assert torch.equal(logits(head, examples.vectors).squeeze(-1) > 0, examples.labels == 1)


def test_numbers_are_those_of_ridge_regression() -> None:
    examples = drawn(60, 4)
    targets = (examples.vectors[:, 0] - 5) * 0.5 + 1
    centred = (examples.vectors - examples.vectors.mean(0)).double().numpy()
    centred /= np.linalg.norm(centred, axis=1).mean()
    expected = Ridge(alpha=0.1).fit(centred, targets.numpy()).predict(centred)
    given = FitExamples(examples.vectors, targets, examples.groups)
    assert np.allclose(logits(fit_numbers(given, 10.0), examples.vectors).squeeze(-1).numpy(), expected, atol=1e-3)
    assert torch.allclose(logits(fit_numbers(given), examples.vectors).squeeze(-1), targets, atol=1e-2)
    assert fit_numbers(FitExamples(examples.vectors[:1], targets[:1], [0])) is None
