"""The checks of a task's optional abilities: outcomes for the report, sums for resampling, occlusion of words."""

import math
from typing import Any

import numpy as np

from adaptdock.engine.conformance.bench import Bench
from adaptdock.engine.conformance.check import expect
from adaptdock.engine.evaluation.measurement import Evaluation
from adaptdock.engine.evaluation.reporting.page import Subject, render
from adaptdock.engine.evaluation.resampling import Metric
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.occlusion import explain
from adaptdock.hub.artefact.card import Card
from adaptdock.plugins.contracts import Occludable, Summable
from adaptdock.plugins.task_abilities import outcome

ROUNDED = 0.01
"""Metrics may be rounded to two digits."""


def reported(bench: Bench, card: Card, evaluation: Evaluation) -> None:
    """Check the outcomes of predictions, the page of a report, and the metric from sums."""
    for record, prediction in zip(bench.records, evaluation.predictions, strict=False):
        result = outcome(bench.task, record, prediction)
        expect(math.isfinite(result.error) and result.error >= 0, f"outcome() gives the error {result.error}")
        for passage in result.passages:
            outside = [mark for mark in passage.marks if not 0 <= mark.start < mark.end <= len(passage.text)]
            expect(not outside, f"outcome() marks characters outside of the passage {passage.title!r}: {outside}")
        for score, _ in result.scores:
            expect(0 <= score <= 1, f"outcome() gives the score {score}, which is not a probability")
    render(Subject(card, bench.task, "the sample", "train", bench.records, evaluation))
    if isinstance(bench.task, Summable):
        value = Metric(bench.task, bench.records, evaluation.scored).value(np.arange(len(bench.records)))
        metric = evaluation.metrics[type(bench.task).metric]
        near = math.isclose(value, metric, rel_tol=ROUNDED, abs_tol=ROUNDED)
        expect(near, f"of_sums() gives {value}, and score() gives {metric}")


def explained(bench: Bench, dock: Dock, name: str, inputs: list[Any]) -> None:
    """Check that each word of an explained text has a finite effect, and is the text at its place."""
    if not isinstance(bench.task, Occludable):
        return
    for explanation in explain(dock, name, inputs[0]):
        expect(math.isfinite(explanation.log_probability), "log_probability() has to be finite")
        for word in explanation.words:
            expect(math.isfinite(word.effect), f"the effect of {word.text!r} is {word.effect}")
            expect(word.text.strip() != "", f"word_spans() has an empty word at {word.start}")
