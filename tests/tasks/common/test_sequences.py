"""Classification, pairs and regression: labels, windows, scores, calibration, bad input."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_tokenizer
from sklearn.metrics import f1_score, matthews_corrcoef

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import DataError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import Backbone, Feature, Reading
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.pair import Pair
from adaptdock.tasks.regression import Regression


def make(task: type = Classification, **options: Any) -> Any:
    return task(task.Options(**options))


def records(*rows: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"where": f"a.csv:{number}", "text": text, "label": label} for number, (text, label) in enumerate(rows, 2)]


KINDS = {
    "sentiment": {"negative", "positive"},
    "spam": {"ham", "spam"},
    "intent": {"book_table", "play_music", "set_alarm", "weather"},
    "topic": {"food", "sport", "travel", "weather"},
}


@pytest.mark.parametrize("name", KINDS)
def test_each_usual_name_of_classification_has_a_sample_of_its_own_kind(name: str) -> None:
    task = registry.load("task", name)
    assert issubclass(task, Classification)
    assert task.Options is Classification.Options
    splits, _ = load_splits(Source(), task)
    for records in splits.values():
        assert {record["label"] for record in records} == KINDS[name]
    texts = [record["text"] for records in splits.values() for record in records]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("task", [Classification, Pair, Regression])
def test_a_sample_is_learnt_saved_and_used(task: type, backbone: Backbone, dock: Dock, tmp_path: Path) -> None:
    name = task.__name__.lower()
    made = plan(backbone, name, "lora", Source(), {"epochs": 4, "learning_rate": 1e-2})
    result = train_plan(made, tmp_path)
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert min(losses) < losses[0]
    docked = dock.dock(read_file(result.file))
    inputs = [{"text": f"It rains in Oslo {n}", "second": "It is dry"} for n in range(3)]
    together = dock.predict(docked, inputs)
    alone = [dock.predict(docked, [item])[0] for item in inputs]
    key = "value" if task is Regression else "score"
    assert [found[key] for found in together] == pytest.approx([found[key] for found in alone], abs=2e-4)
    assert "It is dry" in made.task.render(together[0]) or task is Classification


def test_labels_are_names_and_what_is_none_is_refused_with_its_place() -> None:
    cleaned = make().clean(records(("a", 1), ("b", True), ("c", " x ")), "train").records
    assert [record["label"] for record in cleaned] == ["1", "True", "x"]
    for wrong in ("", "  ", {"a": 1}, math.nan):
        with pytest.raises(DataError, match=r"a\.csv:2: a label is a name or a number"):
            make().clean(records(("a", wrong)), "train")
    with pytest.raises(DataError, match=r"a\.csv:2: the text has 2 labels, 'a' and 'b'.*--multi-label"):
        make().clean(records(("a", ["a", "b"])), "train")
    with pytest.raises(DataError, match=r"a\.csv:2: the label is missing"):
        make().clean(records(("a", None)), "train")
    with pytest.raises(DataError, match=r"a\.csv:2: text has to be a text, found 3"):
        make().clean([{"where": "a.csv:2", "text": 3, "label": "x"}], "train")


def test_one_class_an_unseen_class_and_empty_texts() -> None:
    with pytest.raises(DataError, match="one class only"):
        make().fit(make().clean(records(("a", "x"), ("b", "x")), "train").records)
    fitted = make().fit(make().clean(records(("a", "x"), ("b", "y")), "train").records)
    with pytest.raises(DataError, match=r"a\.csv:2: the label 'z' occurs in test"):
        fitted.check(records(("a", "z")), "test")
    cleaned = make().clean(records((" ", "x"), ("b", "y")), "train")
    assert cleaned.notes == ["train: 1 texts are empty, such as a.csv:2"]
    assert len(cleaned.records) == 2


def test_uneven_classes_are_reported_with_what_helps() -> None:
    uneven = make().clean(records(*[("a", "ham")] * 20, ("b", "spam")), "train")
    assert "'ham' has 20 records, 'spam' 1. --class-weights balanced" in uneven.notes[0]
    assert not make().clean(records(("a", "ham"), ("b", "spam")), "train").notes
    fitted = make(labels=("ham", "spam"))
    weights = fitted.class_weights(uneven.records)
    assert weights[0] * 20 == pytest.approx(weights[1] * 1)


def test_a_long_text_becomes_windows_whose_mean_answers() -> None:
    task = make(labels=("x", "y"))
    reading = Reading(tiny_tokenizer(), 16)
    features = task.encode({"text": "abcdefghij " * 5, "label": "y"}, reading, labelled=True)
    assert len(features) > 1
    assert {feature.labels for feature in features} == {1}
    assert max(len(feature.inputs["input_ids"]) for feature in features) <= 16
    digests = [torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])]
    assert task.decode({"text": "t"}, features, digests)["label"] == "y"


def test_a_pair_keeps_its_first_text_in_each_window_and_counts_what_is_cut() -> None:
    task = make(Pair, labels=("x", "y"))
    reading = Reading(tiny_tokenizer(), 24)
    short = task.encode({"text": "abc", "second": "defghijk " * 6, "label": "x"}, reading, labelled=True)
    begin = short[0].inputs["input_ids"][:5]
    assert len(short) > 1
    assert all(feature.inputs["input_ids"][:5] == begin for feature in short)
    assert sum(feature.cut for feature in short) == 0
    long = task.encode({"text": "a" * 30, "second": "b" * 30, "label": "x"}, reading, labelled=True)
    assert long[0].cut == 30 - 12
    assert max(len(feature.inputs["input_ids"]) for feature in long) <= 24
    with pytest.raises(DataError, match="an object with 'text' and 'second'"):
        task.read("only one")
    assert task.read(["a", "b"]) == task.read({"premise": "a", "hypothesis": "b"}) == {"text": "a", "second": "b"}


def test_metrics_are_those_of_scikit_learn() -> None:
    task = make(labels=("a", "b", "c"))
    gold, found = list("aabbcab"), list("abbbcca")
    predictions = [{"label": name, "score": 1.0, "scores": {name: 1.0}} for name in found]
    scores = task.score([{"label": name} for name in gold], predictions)
    assert scores["macro_f1"] == pytest.approx(100 * f1_score(gold, found, average="macro"), abs=0.01)
    assert scores["mcc"] == pytest.approx(100 * matthews_corrcoef(gold, found), abs=0.01)
    assert scores["accuracy"] == pytest.approx(100 * 4 / 7, abs=0.01)
    assert scores["ece"] == pytest.approx(100 * 3 / 7, abs=0.01)  # always sure, right four times of seven
    assert scores["by_class"]["b"]["support"] == 3


def test_what_is_beneath_the_threshold_is_out_of_scope() -> None:
    task = make(labels=("a", "b"), reject_below=0.9)
    sure = task.decode({"text": "t"}, [], [torch.tensor([5.0, 0.0])])
    unsure = task.decode({"text": "t"}, [], [torch.tensor([0.5, 0.0])])
    assert (sure["label"], unsure["label"]) == ("a", None)
    assert task.render(unsure).startswith("[out of scope 0.62]")
    scores = task.score([{"label": "a"}, {"label": "a"}], [sure, unsure])
    assert (scores["accuracy"], scores["answered"], scores["accuracy_of_answered"]) == (50.0, 50.0, 100.0)


def test_calibration_finds_the_temperature_that_was_hidden() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(4000, 3, generator=generator)
    targets = torch.multinomial(honest.softmax(-1), 1, generator=generator).squeeze(1)
    given = [{"text": "t", "label": "abc"[number]} for number in targets]
    digests = [[row] for row in honest * 2.5]
    assert make(labels=tuple("abc")).settle(given, digests).options.temperature == 1.0
    settled = make(labels=tuple("abc"), calibrate=True).settle(given, digests)
    assert settled.options.temperature == pytest.approx(2.5, rel=0.1)
    before, after = (
        task.score(given, [task.decode(record, [], own) for record, own in zip(given, digests, strict=True)])["ece"]
        for task in (make(labels=tuple("abc")), settled)
    )
    assert after < before / 3


def test_calibration_ends_up_in_the_card(backbone: Backbone, tmp_path: Path) -> None:
    options = {"epochs": 1, "learning_rate": 1e-2}
    data = str(Classification.sample / "train.csv")
    source = Source(train=data, validation=data)
    made = plan(backbone, "classification", "lora", source, options, task_options={"calibrate": True})
    card = train_plan(made, tmp_path).adapter.card
    assert card.task.options["temperature"] != 1.0


def test_too_few_validation_records_calibrate_nothing_and_it_is_said(backbone: Backbone, tmp_path: Path) -> None:
    made = plan(backbone, "classification", "lora", Source(), {"epochs": 1}, task_options={"calibrate": True})
    assert train_plan(made, tmp_path).adapter.card.task.options["temperature"] == 1.0
    assert any("no temperature or threshold is learnt from them" in note for note in made.notes)


def test_training_makes_vectors_of_one_length_and_adapters_from_before_read_them_as_they_are() -> None:
    cleaned = make().clean(records(("a", "x"), ("b", "y")), "train").records
    assert make(labels=("x", "y")).head().length == "plain"
    assert make().fit(cleaned).head().length == "unit"
    assert make(vector_length="plain").fit(cleaned).head().length == "plain"
    assert make(pooling="first").fit(cleaned).head().length == "plain"


def test_several_labels_are_sets() -> None:
    task = make(multi_label=True, label_separator=";")
    cleaned = task.clean(records(("a", "x;y"), ("b", ["y"]), ("c", ""), ("d", "z")), "train").records
    assert [record["label"] for record in cleaned] == [["x", "y"], ["y"], [], ["z"]]
    fitted = task.fit(cleaned)
    assert fitted.target(cleaned[0]) == [1, 1, 0]
    logits = torch.tensor([[3.0, 3.0, -3.0], [-3.0, 3.0, -3.0]])
    right = fitted.loss(logits, torch.tensor([[1, 1, 0], [0, 1, 0]]), None)
    wrong = fitted.loss(logits, torch.tensor([[0, 0, 1], [1, 0, 1]]), None)
    assert right < 0.1 < wrong
    found = fitted.decode({"text": "a"}, [], [logits[0]])
    assert found["labels"] == ["x", "y"]
    strict = make(multi_label=True, labels=("x", "y", "z"), threshold=0.99).decode({"text": "a"}, [], [logits[0]])
    assert strict["labels"] == []
    scores = fitted.score(cleaned[:2], [found, fitted.decode({"text": "b"}, [], [logits[1]])])
    assert scores["accuracy"] == scores["micro_f1"] == 100.0
    with pytest.raises(DataError, match="several labels are a list"):
        task.clean(records(("a", 3)), "train")


def test_a_regression_target_is_a_finite_number_that_varies() -> None:
    for wrong in ("high", None, math.inf, True, "nan"):
        with pytest.raises(DataError, match=r"a\.csv:2: (the target has to be a finite number|the label is missing)"):
            make(Regression).clean(records(("a", wrong)), "train")
    cleaned = make(Regression).clean(records(("a", "1.5"), ("b", 3)), "train").records
    fitted = make(Regression).fit(cleaned)
    assert (fitted.options.mean, fitted.options.deviation) == (2.25, 0.75)
    assert fitted.decode({"text": "a"}, [], [torch.tensor([fitted.target(cleaned[1])])])["value"] == 3.0
    with pytest.raises(DataError, match="the target is 2 in every training record"):
        make(Regression).fit(make(Regression).clean(records(("a", 2), ("b", 2)), "train").records)


def test_regression_is_measured_by_correlation_and_error() -> None:
    gold = [{"label": value} for value in (1.0, 2.0, 3.0, 4.0)]
    scores = make(Regression).score(gold, [{"value": value} for value in (2.0, 4.0, 6.0, 8.0)])
    assert scores == {"pearson": 100.0, "spearman": 100.0, "mae": 2.5, "rmse": pytest.approx(math.sqrt(7.5), abs=1e-4)}
    assert make(Regression).score(gold, [{"value": 1.0}] * 4)["pearson"] == 0.0
    logits, labels = torch.tensor([[1.0], [5.0]]), torch.tensor([0.0, 0.0])
    assert make(Regression).loss(logits, labels, None) == 13.0
    assert make(Regression, loss="absolute").loss(logits, labels, None) == 3.0


def test_a_pair_or_a_text_can_be_regressed(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sentence1,sentence2,score\n" + "a,b,1\nc,d,2\n" * 10)
    splits, _ = load_splits(Source(data=str(tmp_path)), Regression)
    cleaned = make(Regression).clean(splits["train"], "train").records
    feature: Feature = make(Regression).encode(cleaned[0], Reading(tiny_tokenizer(), 16), labelled=True)[0]
    assert len(feature.inputs["input_ids"]) == 5  # [CLS] a [SEP] b [SEP]
