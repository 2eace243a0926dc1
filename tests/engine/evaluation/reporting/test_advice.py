"""Each rule of advice: the numbers with which it speaks, and those with which it is silent."""

from collections import Counter
from dataclasses import replace

import pytest

from adaptdock.engine.evaluation.reporting import advice
from adaptdock.engine.evaluation.reporting.advice import RULES, Facts, LabelFigures, Rule
from adaptdock.engine.evaluation.reporting.calibration import Calibration
from adaptdock.engine.evaluation.reporting.confusion import Confusion
from adaptdock.engine.evaluation.reporting.slices import LENGTH, UNSEEN, Slice

GOOD = Facts("f1", 80.0, 500, interval=(78.0, 82.0), checked=2000)


def confused(*pair: str, count: int = 10) -> Confusion:
    others = {(f"x{number}", "y"): 1 for number in range(10)}
    return Confusion(Counter({(pair[0], pair[1]): count, **others}), (), 0)


def calibrated(error: float, excess: float) -> Calibration:
    return Calibration((), 100, error, excess)


def weak(kind: str, name: str, value: float = 50.0) -> Slice:
    return Slice(kind, name, 40, value, (value - 5, value + 5))


CASES: list[tuple[Rule, Facts, Facts, tuple[str, ...]]] = [
    (
        advice.learns_nothing,
        replace(GOOD, shortfall="This adapter has learnt nothing of use."),
        GOOD,
        ("nothing of use", "epochs"),
    ),
    (advice.mend_data, replace(GOOD, problems=21), replace(GOOD, problems=20), ("21",)),
    (
        advice.label_examples,
        replace(GOOD, labels=[LabelFigures("ORG", 49.9, 5, 49), LabelFigures("PER", 90.0, 5, 9)]),
        replace(GOOD, labels=[LabelFigures("ORG", 50.0, 5, 49), LabelFigures("PER", 20.0, 5, 50)]),
        ("'ORG'", "49 in training"),
    ),
    (
        advice.separate_labels,
        replace(GOOD, confusion=confused("a", "b")),
        replace(GOOD, confusion=confused("a", "b", count=1)),
        ("'a'", "'b'", "10 of 20"),
    ),
    (
        advice.weakest_labels,
        replace(GOOD, labels=[LabelFigures("ORG", 60.0, 5, 90)]),
        replace(GOOD, labels=[LabelFigures("ORG", 61.0, 5, 90), LabelFigures("PER", 60.0, 4, 90)]),
        ("'ORG'", "60 %"),
    ),
    (
        advice.unseen_words,
        replace(GOOD, slices=[weak(UNSEEN, "more than 25%")]),
        replace(GOOD, slices=[weak(UNSEEN, "more than 25%", 79.0), weak(LENGTH, "x")]),
        ("50.0", "80.0", "--augment"),
    ),
    (
        advice.long_texts,
        replace(GOOD, slices=[weak(LENGTH, "40 to 90 words")]),
        replace(GOOD, slices=[weak(LENGTH, "x", 90.0)]),
        ("40 to 90 words", "--max-length"),
    ),
    (advice.train_longer, replace(GOOD, last_epoch_is_best=True), GOOD, ("--epochs",)),
    (
        advice.train_longer,
        replace(GOOD, last_epoch_is_best=True),
        replace(GOOD, last_epoch_is_best=True, validation_losses=[0.5, 0.25, 0.5]),
        ("--epochs",),
    ),
    (
        advice.train_shorter,
        replace(GOOD, validation_losses=[1.0, 0.5, 0.6]),
        replace(GOOD, validation_losses=[1.0, 0.5, 0.54]),
        ("0.500 to 0.600", "overfits"),
    ),
    (
        advice.calibrate,
        replace(GOOD, calibration=calibrated(0.2, 0.2)),
        replace(GOOD, calibration=calibrated(0.09, 0.09)),
        ("surer", "20 points"),
    ),
    (advice.measure_more, replace(GOOD, interval=(70.0, 90.0)), GOOD, ("500", "70.0 and 90.0")),
]


def test_every_rule_has_a_case() -> None:
    assert {rule for rule, *_ in CASES} == set(RULES)


@pytest.mark.parametrize(("rule", "bad", "good", "words"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_speaks_of_its_weakness_only(rule: Rule, bad: Facts, good: Facts, words: tuple[str, ...]) -> None:
    sentence = rule(bad)
    assert all(word in sentence for word in words), sentence
    assert rule(good) == ""


def test_only_the_rule_of_a_weakness_speaks() -> None:
    for rule, bad, _, _ in CASES:
        assert advice.advice(bad) == [rule(bad)]
    assert advice.advice(GOOD) == []


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (("ORG", "(none)"), "missed 'ORG'"),
        (("(none)", "ORG"), "'ORG' where none is expected"),
        (("ORG", "(other extent)"), "begins and ends"),
    ],
)
def test_a_missed_an_invented_and_a_longer_entity_get_advice_of_their_own(pair: tuple[str, str], words: str) -> None:
    assert words in advice.separate_labels(replace(GOOD, confusion=confused(*pair)))


def test_a_perplexity_is_worse_where_it_is_higher() -> None:
    facts = replace(
        GOOD,
        metric="perplexity",
        lower_is_better=True,
        slices=[weak(LENGTH, "long", 120.0), weak(LENGTH, "short", 20.0)],
    )
    assert "long" in advice.long_texts(facts)
    assert "short" not in advice.long_texts(facts)


def test_scores_that_are_too_low_are_called_less_sure() -> None:
    assert "less sure" in advice.calibrate(replace(GOOD, calibration=calibrated(0.2, -0.2)))


def test_the_most_useful_advice_comes_first_and_five_are_enough() -> None:
    everything = replace(
        GOOD,
        shortfall="Nothing of use.",
        problems=999,
        last_epoch_is_best=True,
        interval=(0.0, 99.0),
        confusion=confused("a", "b"),
        calibration=calibrated(0.3, 0.3),
    )
    sentences = advice.advice(everything)
    assert len(sentences) == 5
    assert sentences[0].startswith("Nothing of use.")
