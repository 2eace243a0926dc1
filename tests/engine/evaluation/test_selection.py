"""Model selection: what decides which validation is the best, and when validation cannot tell."""

import math
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.sources import Source
from adaptdock.engine.evaluation.selection import ENOUGH, Criterion, too_few
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.hyperparameters import lengthened, merge_options, slowed
from adaptdock.engine.training.planning.plan import plan
from adaptdock.plugins.contracts import Backbone


def history(*validations: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"eval_f1": f1, "eval_loss": loss, "epoch": n} for n, (f1, loss) in enumerate(validations, 1)]


def epoch(criterion: Criterion, *validations: tuple[float, float]) -> float:
    best = criterion.best(history(*validations))
    assert best is not None
    return float(best["epoch"])


def test_equal_metrics_are_decided_by_the_lower_loss_and_equals_in_both_by_the_first() -> None:
    f1 = Criterion("eval_f1")
    assert epoch(f1, (50, 0.9), (50, 0.7), (50, 0.8)) == 2
    assert epoch(f1, (50, 0.7), (60, 0.9), (50, 0.1)) == 2
    assert epoch(f1, (50, 0.7), (50, 0.7)) == 1
    assert epoch(Criterion("eval_f1", lower_is_better=True), (3, 0.9), (2, 0.9), (2, 0.8), (4, 0.1)) == 3
    assert epoch(f1, (math.nan, 0.1), (50, math.nan), (50, 0.9)) == 3
    assert f1.best([]) is None
    assert f1.since_best([]) is None


def test_a_lower_loss_at_the_same_metric_ends_the_waiting() -> None:
    f1 = Criterion("eval_f1")
    assert f1.since_best(history((50, 0.9), (50, 0.8), (50, 0.7))) == 0
    assert f1.since_best(history((50, 0.7), (50, 0.8), (40, 0.1))) == 2
    assert f1.since_best(history((50, 0.7), (50, 0.8), (40, 0.1)), start=2) == 1


def test_where_validation_cannot_tell_the_last_one_is_kept() -> None:
    last = Criterion("eval_f1", decisive=False)
    assert epoch(last, (90, 0.1), (10, 0.9)) == 2
    assert last.since_best(history((90, 0.1), (10, 0.9))) == 0


@pytest.mark.parametrize(
    ("task", "options", "record", "support"),
    [
        ("classification", {}, {"text": "a", "label": "x"}, 1),
        ("ner", {}, {"tokens": ["Ada", "Ray"], "tags": ["B-PER", "I-PER"]}, 1),
        ("ner", {}, {"tokens": ["a", "b"], "tags": ["O", "O"]}, 0),
        ("pos", {}, {"tokens": ["a", "b"], "tags": ["X", "Y"]}, 2),
        ("clm", {}, {"texts": ["one two", "three"]}, 3),
        ("qa", {}, {"question": "q", "context": "c", "answers": []}, 1),
    ],
)
def test_a_task_says_how_many_answers_its_metric_rests_on(
    task: str, options: dict[str, Any], record: dict[str, Any], support: int
) -> None:
    made = make_task(task, options)
    assert made.support([record] * 3) == 3 * support
    enough = [record] * math.ceil(ENOUGH / max(1, support))
    assert (too_few(made, enough) == []) is bool(support)
    assert "the weights of the last epoch are kept" in too_few(made, [record] * 0)[0]


def test_a_run_with_little_validation_data_keeps_the_last_epoch_and_says_so(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    text = (data / "validation.conll").read_text().split("\n\n")[:3]
    (tmp_path / "few.conll").write_text("\n\n".join(text))
    source = Source(train=str(data / "train.conll"), validation=str(tmp_path / "few.conll"))
    options = {"epochs": 4, "patience": 1, "learning_rate": 1e-2, "batch_size": 32}
    made = plan(backbone, "ner", "lora", source, options)
    seen: list[Progress] = []
    result = train_plan(made, tmp_path / "run", progress=seen.append)
    assert result.ending == "complete"
    assert result.adapter.card.training["best_epoch"] == result.epochs == 4
    last = [progress.metrics for progress in seen if progress.metrics is not None][-1]
    assert result.adapter.card.metrics["validation"] == last
    verdict = " ".join(result.report(tmp_path, made))
    assert "too small to tell overfitting" in verdict
    assert "No sign of overfitting" not in verdict
    assert any("the weights of the last epoch are kept" in note for note in made.notes)


def test_little_data_gets_more_epochs_unless_their_number_is_chosen() -> None:
    recipe = merge_options("classification", "lora", {})
    longer, notes = lengthened(recipe, 14, recipe)
    assert longer.epochs == 50
    assert notes[0].startswith(f"little training data: 50 epochs in place of {recipe.epochs}")
    assert lengthened(recipe, 16 * 50, recipe) == (recipe, [])
    chosen = merge_options("classification", "lora", {"epochs": 2})
    assert lengthened(chosen, 14, recipe)[0].epochs == 2
    assert lengthened(chosen, 14, recipe)[1][0].startswith("2 training steps in 2 epochs are few")
    again = merge_options("classification", "lora", chosen.model_dump(exclude={"method_options"}))
    assert lengthened(again, 14, recipe)[0].epochs == 2
    stored = merge_options("classification", "lora", longer.model_dump(exclude={"method_options"}))
    assert lengthened(stored, 14, recipe)[0].epochs == 50


@pytest.mark.parametrize("task", ["ner", "pos", "chunking"])
@pytest.mark.parametrize(
    ("units", "epochs", "untargeted"), [(14, 200, 200), (100, 29, 29), (318, 10, 10), (1500, 7, 3), (3394, 3, 3)]
)
def test_taggers_get_two_hundred_steps_and_six_hundred_as_far_as_ten_epochs_go(
    task: str, units: int, epochs: int, untargeted: int
) -> None:
    recipe = merge_options(task, "lora", {})
    assert lengthened(recipe, units, recipe)[0].epochs == epochs
    assert lengthened(merge_options(task, "lora", {"target_steps": 0}), units, recipe)[0].epochs == untargeted
    assert lengthened(merge_options(task, "lora", {"epochs": 2}), units, recipe)[0].epochs == 2


def test_the_note_on_few_chosen_epochs_names_the_epochs_that_follow_its_advice() -> None:
    recipe = merge_options("ner", "lora", {})
    for units in (14, 100, 318):
        (note,) = lengthened(merge_options("ner", "lora", {"epochs": 2}), units, recipe)[1]
        assert f"there would be {lengthened(recipe, units, recipe)[0].epochs} epochs" in note


@pytest.mark.parametrize(
    ("task", "options", "rate"),
    [
        ("classification", {}, 5e-4),
        ("classification", {"few_labels_rate": 1.0}, 1e-3),
        ("classification", {"learning_rate": 4e-4}, 4e-4),
        ("pos", {}, 5e-4),
        ("pos", {"few_labels_rate": 0.5}, 2.5e-4),
    ],
)
def test_few_texts_get_half_the_rate_of_the_recipe_and_few_tagged_sentences_all_of_it(
    task: str, options: dict[str, float], rate: float
) -> None:
    recipe = merge_options(task, "lora", {})
    slower, notes = slowed(merge_options(task, "lora", options), recipe)
    assert slower.learning_rate == rate
    assert bool(notes) == (rate < recipe.learning_rate and "learning_rate" not in options)


def test_patience_does_not_count_before_the_fewest_steps_are_taken(
    backbone: Backbone, data: Path, tmp_path: Path
) -> None:
    options = {"epochs": 40, "min_steps": 12, "batch_size": 30, "patience": 1, "learning_rate": 1e-9}
    made = plan(backbone, "ner", "lora", Source(data=str(data)), options)  # two steps an epoch
    assert train_plan(made, tmp_path).epochs == 7
