"""Few labels: all records are trained on, and folds of them say what to expect and what is saved."""

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest

from adaptdock.engine.data.sources import Source
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.engine.training.members.task_run import Result
from adaptdock.engine.training.planning.plan import Plan, plan
from adaptdock.engine.training.planning.run_plan import RunPlan
from adaptdock.engine.training.repeats import joint_run
from adaptdock.engine.training.repeats.few_labels import FOLDS, PLACE, choose_by_folds
from adaptdock.engine.training.train import carry_out
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone


def texts(folder: Path, count: int = 24) -> str:
    file = folder / f"few-{count}.jsonl"
    words = ("ada", "bob")
    rows = [
        {"text": f"{words[n % 2]} {'abcdefgh'[n % 8]} {ascii_lowercase[n // 8]}", "label": words[n % 2]}
        for n in range(count)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def made(backbone: Backbone, file: str, **options: Any) -> Plan:
    given = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, **options}
    return plan(backbone, "classification", "lora", Source(train=file), given)


def carried_out(training_plan: Plan, folder: Path, **options: Any) -> Result:
    """Train one task with everything that a run of few labels does."""
    (result,) = carry_out(RunPlan.of(training_plan), folder, **options).values()
    return result


def test_few_records_are_all_trained_on_and_many_are_not(backbone: Backbone, tmp_path: Path) -> None:
    few, many = made(backbone, texts(tmp_path)), made(backbone, texts(tmp_path, 200))
    assert few.undivided
    assert len(few.records["train"]) == few.summary()["data"]["train"]["texts"] == 24
    assert any(note.startswith("few labels: all 24 records are trained on") for note in few.notes)
    assert not any("validation compares" in note or "held out for it" in note for note in few.notes)
    assert not many.undivided
    assert len(many.records["validation"]) == 20


@pytest.mark.parametrize(("count", "undivided"), [(40, True), (199, True), (200, False)])
def test_few_sentences_of_many_words_are_few_labels(
    backbone: Backbone, tmp_path: Path, count: int, undivided: bool
) -> None:
    file = tmp_path / "words.conll"
    sentences = [
        "".join(f"{word}{n}\t{tag}\n" for word, tag in [("ada", "N"), ("sings", "V")] * 15) for n in range(count)
    ]
    file.write_text("\n".join(sentences))
    tagged = plan(backbone, "pos", "lora", Source(train=str(file)), {"epochs": 1})
    assert tagged.undivided == undivided
    assert len(tagged.records["train"]) == (count if undivided else 180)
    if undivided:
        tenth = count // 10
        assert any(f"{30 * tenth} answers in {tenth} records" in note for note in tagged.notes)


@pytest.mark.parametrize("options", [{"hold_out": "always"}, {"unlabelled": "more"}])
def test_a_part_is_held_out_where_that_is_asked_for(
    backbone: Backbone, tmp_path: Path, options: dict[str, str]
) -> None:
    if "unlabelled" in options:
        (tmp_path / "more.txt").write_text("ada a\n")
        options = {"unlabelled": str(tmp_path / "more.txt")}
    assert len(made(backbone, texts(tmp_path), **options).records["validation"]) == 2


def test_validation_data_that_is_given_stays_validation_data(backbone: Backbone, tmp_path: Path) -> None:
    source = Source(train=texts(tmp_path), validation=texts(tmp_path, 4))
    own = plan(backbone, "classification", "lora", source, {"epochs": 1})
    assert len(own.records["validation"]) == 4


def test_a_run_on_few_records_tells_what_the_folds_reach_and_takes_every_step(
    backbone: Backbone, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    result = carried_out(made(backbone, texts(tmp_path)), tmp_path / "run", progress=seen.append)
    training, metrics = result.adapter.card.training, result.adapter.card.metrics
    assert training["folds"]["count"] == FOLDS
    assert training["splits"] == {"train": 24}
    assert training["best_epoch"] == (0 if training["folds"]["kept"] == "fitted head" else result.epochs)
    assert metrics.keys() == {"folds"}
    assert metrics["folds"]["accuracy"] == max(training["folds"]["adapter"], training["folds"]["fitted_head"]) > 90
    assert {progress.stage for progress in seen} == {"", "fold 1, fold 2, fold 3, fold 4 of 4"}
    assert result.shortfall == ""
    verdict = result.report(tmp_path / "run", made(backbone, texts(tmp_path)))
    assert "no overfitting" not in " ".join(verdict).lower()
    page = " ".join((tmp_path / "run" / "report.html").read_text().split())
    assert "on the folds of the training data" in page
    assert "Measured on 24 records" in page
    assert "answered by a run that was not trained on it" in page
    assert f"accuracy {metrics['folds']['accuracy']:g}" in page


@pytest.mark.parametrize("head_start", ["random", pytest.param("fitted", marks=pytest.mark.slow)])
def test_folds_in_one_pass_choose_and_weigh_as_folds_one_after_the_other(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head_start: str
) -> None:
    # Adam turns the rounding of a gradient near zero into steps of the size of the rate: the rate is that of a recipe.
    own = made(backbone, texts(tmp_path, 16), epochs=2, learning_rate=1e-3, store="float32", head_start=head_start)
    together = choose_by_folds(own, tmp_path / "together", None)
    monkeypatch.setattr(joint_run, "MOST", 1)
    stages: list[str] = []
    alone = choose_by_folds(own, tmp_path / "alone", lambda now: stages.append(now.stage))
    assert set(stages) == {f"fold {number} of {FOLDS}" for number in range(1, FOLDS + 1)}
    assert together is not None
    assert alone is not None
    assert together.choice == alone.choice
    assert together.metrics == alone.metrics
    for number in range(1, FOLDS + 1):
        first, second = (
            read_file(tmp_path / run / PLACE / str(number) / "best.safetensors") for run in ("together", "alone")
        )
        for name, tensor in first.tensors.items():
            # The head is fitted on the trained vectors: L-BFGS ends within a part of a weight.
            part = 1e-5 if head_start == "fitted" and name.startswith("head.") else 0
            difference = (tensor - second.tensors[name]).abs() - part * tensor.abs()
            assert difference.max() <= 1e-5, name
    assert not (tmp_path / "together" / PLACE / "pass").exists()


def test_a_fold_whose_loss_is_not_a_number_is_named(backbone: Backbone, tmp_path: Path) -> None:
    own = made(backbone, texts(tmp_path, 16), epochs=2, learning_rate=1e38, head_start="random")
    with pytest.raises(AdaptError, match=r"fold 1: the loss became nan in step 2; a smaller learning rate than 1e\+38"):
        choose_by_folds(own, tmp_path / "run", None)


def test_where_training_ruins_the_adapter_the_folds_choose_the_fitted_head(backbone: Backbone, tmp_path: Path) -> None:
    own = made(backbone, texts(tmp_path), learning_rate=1.0)
    result = carried_out(own, tmp_path / "run")
    assert result.adapter.card.training["folds"]["kept"] == "fitted head"
    assert result.adapter.card.metrics["folds"]["accuracy"] > 90
    assert not any(tensor.any() for name, tensor in result.adapter.tensors.items() if name.endswith("lora_b"))


def test_without_a_fitted_head_the_folds_measure_the_adapter(backbone: Backbone, tmp_path: Path) -> None:
    own = made(backbone, texts(tmp_path), head_start="random", epochs=8)
    result = carried_out(own, tmp_path / "run")
    folds = result.adapter.card.training["folds"]
    assert folds["fitted_head"] is None
    assert folds["kept"] == "adapter"
    assert result.adapter.card.metrics["folds"]["accuracy"] == folds["adapter"] > 50


def test_records_of_fewer_groups_than_folds_have_no_folds(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = made(backbone, texts(tmp_path))
    monkeypatch.setattr(type(own.task), "group", classmethod(lambda cls, record: record["label"]), raising=False)
    assert choose_by_folds(own, tmp_path / "run", None) is None


def test_a_run_that_was_interrupted_resumes_with_the_same_choice(backbone: Backbone, tmp_path: Path) -> None:
    own = made(backbone, texts(tmp_path))
    alone = carried_out(own, tmp_path / "alone")

    def interrupt(progress: Progress) -> None:
        if not progress.stage and progress.step >= 6:
            raise KeyboardInterrupt

    cut = carried_out(made(backbone, texts(tmp_path), checkpoint_steps=3), tmp_path / "run", progress=interrupt)
    assert cut.ending == "interrupted"
    again = carried_out(made(backbone, texts(tmp_path), checkpoint_steps=3), tmp_path / "run", resume=True)
    assert again.adapter.card.training["folds"] == alone.adapter.card.training["folds"]
    assert all(tensor.equal(alone.adapter.tensors[name]) for name, tensor in again.adapter.tensors.items())
