"""Abilities: which of our tasks have which, and what a task without them is given."""

import pytest

from adaptdock.plugins import registry
from adaptdock.plugins.contracts import (
    Calibrated,
    Grouped,
    LabelChecked,
    Labelling,
    Occludable,
    PseudoLabelling,
    Reported,
    Scoped,
    Summable,
    Task,
    Weighted,
    WindowSampling,
)
from adaptdock.plugins.task_abilities import class_weights, group

CLASSES = {"classification", "sentiment", "spam", "topic", "intent", "pair", "prompted"}
TAGS = {"ner", "pos", "chunking"}
FILES = {"image-classification", "audio-classification"}
TASKS = {name: registry.load("task", name) for name in registry.names("task")}


@pytest.mark.parametrize(
    ("ability", "tasks"),
    [
        (Calibrated, CLASSES | {"qa", "spans"}),
        (PseudoLabelling, CLASSES | TAGS),
        (Weighted, CLASSES | TAGS | FILES),
        (Scoped, CLASSES),
        (Labelling, CLASSES | TAGS | {"spans"}),
        (LabelChecked, CLASSES | TAGS),
        (Grouped, {"qa", "embedding", "rerank", "summarization", "translation"}),
        (Reported, set(TASKS) - {"embedding"}),
        (Summable, set(TASKS) - {"embedding"}),
        (Occludable, CLASSES | TAGS | {"spans"}),
        (WindowSampling, {"qa", "rerank"}),
    ],
)
def test_our_tasks_have_the_abilities_whose_methods_they_have(ability: type, tasks: set[str]) -> None:
    assert {name for name, task in TASKS.items() if isinstance(task(task.Options()), ability)} == tasks


def test_the_contract_of_a_task_has_no_ability_by_itself() -> None:
    for name in (
        "settle",
        "pseudo",
        "class_weights",
        "group",
        "outcome",
        "sums",
        "occluded",
        "sampled_windows",
        "margin",
    ):
        assert not hasattr(Task, name)


def test_a_task_without_an_ability_has_no_weights_and_no_groups() -> None:
    regression = TASKS["regression"](TASKS["regression"].Options())
    assert class_weights(regression, [{"text": "a", "label": 1.0}]) is None
    assert group(regression, {"text": "a"}) is group(TASKS["regression"], {"text": "a"}) is None
    assert group(TASKS["translation"], {"source": "a"}) == "a"
