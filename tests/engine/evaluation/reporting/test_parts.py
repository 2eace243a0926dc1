"""The parts of the report: confusion, calibration, slices, drawn errors and charts, beside scikit-learn."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.evaluation.reporting import charts
from adaptdock.engine.evaluation.reporting.calibration import calibration
from adaptdock.engine.evaluation.reporting.confusion import confusion
from adaptdock.engine.evaluation.reporting.errors import LONGEST, hue_of_labels, pieces, worst_errors
from adaptdock.engine.evaluation.reporting.slices import LABEL, LENGTH, UNSEEN, Slice, slices
from adaptdock.engine.evaluation.resampling import Metric
from adaptdock.plugins.contracts import Mark, Outcome, Passage


def outcomes(pairs: list[tuple[str, str]]) -> list[Outcome]:
    return [Outcome(float(expected != predicted), (), ((expected, predicted),)) for expected, predicted in pairs]


def test_the_confusion_matrix_is_that_of_scikit_learn() -> None:
    draw = random.Random(0)
    pairs = [(draw.choice("abc"), draw.choice("abc")) for _ in range(200)]
    matrix = confusion(outcomes(pairs))
    assert matrix is not None
    expected, predicted = zip(*pairs, strict=True)
    oracle = confusion_matrix(expected, predicted, labels=list("abc"))
    assert [[matrix.counts[row, column] for column in "abc"] for row in "abc"] == oracle.tolist()
    assert matrix.errors == oracle.sum() - oracle.trace()
    assert matrix.share("a", "b") == pytest.approx(oracle[0, 1] / oracle[0].sum())
    assert matrix.frequent(1)[0][2] == max(
        oracle[row, column] for row in range(3) for column in range(3) if row != column
    )


def test_of_many_labels_those_with_most_errors_are_drawn_and_the_others_counted() -> None:
    pairs = [(f"l{number:02}", f"l{number:02}") for number in range(30)] + [("l29", "l28")] * 3 + [("l05", "(none)")]
    matrix = confusion(outcomes(pairs))
    assert matrix is not None
    assert {"l05", "l28", "l29"} < set(matrix.labels)
    assert len(matrix.labels) + matrix.hidden == 31
    assert matrix.labels[-1] == "(none)"
    assert "(none)" not in matrix.rows
    assert "(none)" in matrix.columns


def test_outcomes_without_labels_have_no_matrix() -> None:
    assert confusion([Outcome(1.0, ())]) is None


def test_the_reliability_is_that_of_scikit_learn() -> None:
    draw = random.Random(1)
    scores = [(draw.random() * 0.999, draw.random() < 0.6) for _ in range(500)]
    found = calibration([Outcome(0.0, (), scores=tuple(scores))])
    assert found is not None
    right, score = calibration_curve([r for _, r in scores], [s for s, _ in scores], n_bins=10)
    assert [part.right for part in found.bins] == pytest.approx(right.tolist())
    assert [part.score for part in found.bins] == pytest.approx(score.tolist())
    assert found.excess == pytest.approx(np.mean([s - r for s, r in scores]))
    assert calibration([Outcome(0.0, (), scores=tuple(scores[:19]))]) is None


def classified(texts: list[str], right: list[bool]) -> tuple[list[dict], list[dict]]:
    records = [{"text": text, "label": "a"} for text in texts]
    return records, [{"label": "a" if answer else "b", "score": 0.5, "scores": {"a": 0.5}} for answer in right]


def test_slices_divide_by_length_and_by_unseen_words_and_measure_each_part() -> None:
    task = make_task("classification", {"labels": ("a", "b")})
    texts = ["seen"] * 20 + ["seen seen, Seen! new"] * 20 + ["new new new new new"] * 20
    records, predictions = classified(texts, [True] * 40 + [False] * 20)
    parts = slices(Metric(task, records, predictions), records, task, [{"text": "Seen.", "label": "a"}], by_label=True)
    by_kind = {
        kind: {part.name: (part.records, part.value) for part in parts if part.kind == kind}
        for kind in (LENGTH, UNSEEN, LABEL)
    }
    assert by_kind[UNSEEN] == {
        "none": (20, 100.0),
        "up to 25% of the words": (20, 100.0),
        "more than 25% of the words": (20, 0.0),
    }
    assert by_kind[LENGTH]["1 to 1 words"] == (20, 100.0)
    assert sum(number for number, _ in by_kind[LENGTH].values()) == 60
    assert by_kind[LABEL] == {}


def test_slices_by_label_cover_records_with_the_label() -> None:
    task = make_task("qa", {})
    records = [{"question": "q", "context": "c", "answers": [{"text": "c", "start": 0}] * (n % 2)} for n in range(20)]
    predictions = [{"answer": "c"}] * 20
    parts = slices(Metric(task, records, predictions), records, task, None, by_label=True)
    assert [(part.name, part.value) for part in parts if part.kind == LABEL] == [("no answer", 0.0), ("answer", 100.0)]


def test_few_records_have_no_slices() -> None:
    task = make_task("classification", {"labels": ("a", "b")})
    records, predictions = classified(["a", "b c"] * 4, [True] * 8)
    assert slices(Metric(task, records, predictions), records, task, None, by_label=False) == []


def test_a_part_of_equal_records_is_not_called_different() -> None:
    assert not Slice(LENGTH, "x", 12, 0.0, (0.0, 0.0)).differs(50.0)
    assert Slice(LENGTH, "x", 12, 10.0, (5.0, 20.0)).differs(50.0)


def test_the_worst_errors_come_first_and_right_records_are_left_out() -> None:
    results = [Outcome(error, (Passage("text", str(error)),)) for error in (0.0, 1.0, 3.0, 2.0)]
    drawn = worst_errors([{"where": f"f:{number}"} for number in range(4)], results, {})
    assert [error.place for error in drawn] == ["f:2", "f:3", "f:1"]


@given(
    some.text(alphabet="ab \n\u202e\x1b", min_size=0, max_size=900),
    some.lists(some.tuples(some.integers(0, 900), some.integers(1, 9)), max_size=6),
)
def test_the_pieces_of_a_short_passage_are_its_text_and_no_piece_hides_a_character(
    text: str, places: list[tuple[int, int]]
) -> None:
    marks = tuple(Mark(start, start + size, "L") for start, size in places if start + size <= len(text))
    parts = pieces(Passage("text", text, marks), {"L": 3})
    shown = "".join(part.text for part in parts)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    if len(text) <= LONGEST:
        assert shown == text.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert bool(marks) <= any(part.label for part in parts)


def test_a_long_passage_is_drawn_around_its_first_mark() -> None:
    text = "x" * 3000 + "Ada" + "y" * 3000
    parts = pieces(Passage("text", text, (Mark(3000, 3003, "PER", wrong=True),)), {"PER": 1})
    assert [(part.text, part.label, part.wrong) for part in parts if part.label] == [("Ada", "PER", True)]
    assert sum(len(part.text) for part in parts) < LONGEST + 10


def test_labels_have_colours_in_order_and_share_them_from_the_ninth() -> None:
    marks = tuple(Mark(0, 1, f"L{number}") for number in range(9))
    hues = hue_of_labels([Outcome(0.0, (Passage("text", "x", marks),))])
    assert hues["L0"] == hues["L8"] == 0
    assert sorted(hues.values())[-1] == 7


def test_the_axes_of_a_chart_contain_all_points_and_have_round_ticks() -> None:
    chart = charts.chart("t", "d", ("x", "y"), [charts.Line("a", [(0.0, 0.13), (3.0, 0.97)])])
    ticks = [float(text) for _, text in chart.y_ticks]
    assert ticks == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    for x, y in chart.lines[0].dots:
        assert charts.LEFT <= float(x) <= charts.WIDTH - charts.RIGHT
        assert charts.TOP <= float(y) <= charts.HEIGHT - charts.BOTTOM


def test_epochs_are_whole_numbers_and_losses_that_are_not_finite_are_left_out() -> None:
    points = [{"epoch": float(n), "train_loss": float("nan"), "validation_loss": 1 / n, "f1": n} for n in (1, 2, 3)]
    losses, metric = charts.learning_curves(points, "f1")
    assert [line.name for line in losses.lines] == ["validation"]
    assert [text for _, text in metric.x_ticks] == ["1", "2", "3"]


def test_a_single_point_and_equal_values_can_be_drawn() -> None:
    assert charts.scatter([(1.0, 1.0), (1.0, 1.0)]).lines[1].dots
    assert charts.learning_curves([{"epoch": 1.0, "train_loss": 0.5, "validation_loss": 0.5, "f1": 0.0}], "f1")
