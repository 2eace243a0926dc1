"""The picture of a run: whose it is, whole epochs, and a metric in percent from 0 to 100."""

from collections.abc import Sequence

import pytest

from adaptdock.engine.evaluation.curves import figure, title
from adaptdock.engine.evaluation.report import validations


def drawn(scores: Sequence[float], lower_is_better: bool = False):
    history: list[dict[str, float]] = []
    for epoch, score in enumerate(scores, 1):
        history.append({"loss": 1 / epoch, "epoch": epoch - 0.5})
        history.append({"eval_loss": 1 / epoch, "eval_score": score, "epoch": epoch})
    points = validations(history, "score")
    picture = figure("ner, lora on minilm", history, points, points[-1], "score", lower_is_better)
    picture.canvas.draw()
    return picture


@pytest.mark.parametrize(
    ("backbone", "line"),
    [
        ("minilm", "ner, lora on minilm"),
        ("HuggingFaceTB/SmolLM2-135M", "ner, lora on HuggingFaceTB/SmolLM2-135M"),
        ("/models/tiny-bert", "ner, lora on tiny-bert"),
        (f"{'deep/' * 20}tiny-bert", "ner, lora on tiny-bert"),
    ],
)
def test_the_title_says_task_method_and_backbone_and_of_a_folder_its_name(backbone: str, line: str) -> None:
    assert title("ner", ["lora"], backbone) == line
    assert title("ner", ["prefix", "bottleneck"], "minilm") == "ner, prefix + bottleneck on minilm"
    assert drawn([1.0, 2.0]).get_suptitle() == "ner, lora on minilm"


@pytest.mark.parametrize("epochs", [1, 2, 3, 8, 30])
def test_the_ticks_of_both_axes_are_whole_epochs(epochs: int) -> None:
    for axes in drawn([50.0] * epochs).axes:
        ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)
        assert axes.get_xlim() == (0, epochs)


def test_a_metric_in_percent_is_shown_from_0_to_100() -> None:
    assert drawn([40.0, 97.5, 100.0]).axes[1].get_ylim() == (0, 100)
    assert drawn([0.0, 61.0]).axes[1].get_ylim() == (0, 100)


@pytest.mark.parametrize(
    ("scores", "lower_is_better"),
    [([0.2, 0.4], False), ([-20.0, 30.0], False), ([31.0, 20.0], True), ([9.0, 120.0], False)],
)
def test_another_metric_has_the_axis_of_its_values(scores: list[float], lower_is_better: bool) -> None:
    bottom, top = drawn(scores, lower_is_better).axes[1].get_ylim()
    assert bottom < min(scores)
    assert max(scores) < top < 2 * max(scores)
