"""Labels and tags that say "not annotated": -1, -100 and null are left out, and counted."""

from typing import Any

import pytest
from models import tiny_tokenizer
from seqeval.metrics import f1_score
from sklearn.metrics import accuracy_score

from adaptdock.engine.data.formats import of_dataset
from adaptdock.plugins.contracts import Reading
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.ner import NER
from adaptdock.tasks.pos import POS


def classes(*labels: Any, split: str = "train", **options: Any) -> tuple[list[Any], list[str]]:
    rows = [{"where": f"a:{number}", "text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    cleaned = Classification(Classification.Options(**options)).clean(rows, split)
    return [record["label"] for record in cleaned.records], cleaned.notes


@pytest.mark.parametrize("gap", [-1, "-1", -1.0, "-1.0", -100, "-100"])
def test_an_uncounted_label_among_numbers_is_left_out_with_its_place(gap: Any) -> None:
    labels, notes = classes(0, 1, gap, 2)
    assert labels == ["0", "1", "2"]
    assert "1 records are not labelled" in notes[0]
    assert "a:2" in notes[0]


def test_minus_one_is_a_class_of_polarity_and_of_negative_numbers_and_where_it_is_listed() -> None:
    labels, notes = classes(-1, 0, 1)
    assert labels == ["-1", "0", "1"]
    assert "--labels 0,1 leaves them out" in notes[0]
    assert classes(-1, 0, 1, labels=("0", "1"))[0] == ["0", "1"]
    assert classes(-2, -1, 0, 1, 2)[0] == ["-2", "-1", "0", "1", "2"]
    assert classes(-1, 3, 4, labels=("-1", "3", "4"))[0] == ["-1", "3", "4"]


def test_a_class_label_of_minus_one_is_left_out_whatever_the_names() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["0", "1"])})
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, -1]}, features=features)
    records = [{**row, "where": place} for row, place in of_dataset(table, "x")]
    cleaned = Classification(Classification.Options()).clean(records, "train")
    assert [record["label"] for record in cleaned.records] == ["0", "1"]


def test_a_split_without_any_label_becomes_empty() -> None:
    labels, notes = classes(-1, -1, split="test")
    assert labels == []
    assert "2 records are not labelled" in notes[0]


@pytest.mark.parametrize("gap", [-1, -100, None, "-100"])
def test_an_untagged_word_has_no_say_in_loss_and_metrics(gap: Any) -> None:
    task = NER(NER.Options(labels=("PER",)))
    raw = {"where": "a:1", "tokens": ["Ada", "x", "Ada", "y"], "tags": ["B-PER", gap, "I-PER", "O"]}
    cleaned = task.clean([raw], "train")
    (record,) = cleaned.records
    assert any("1 words are not tagged" in line and "a:1" in line for line in cleaned.notes)
    assert task.labels(raw) == ["B-PER", "I-PER", "O"]
    predicted = ["B-PER", "O", "I-PER", "O"]
    assert task.score([record], [{"tags": predicted}])["f1"] == 100
    counting = [["B-PER", "I-PER", "O"]]
    assert f1_score(counting, counting) == 1
    assert task.support([record]) == 1
    assert task.fit([record]).options.labels == ("PER",)


def test_numbers_of_tags_with_gaps_take_the_names_that_are_given() -> None:
    raw = {"where": "a:1", "tokens": ["Ada", "x", "y"], "tags": [1, -100, 0]}
    (record,) = NER(NER.Options(tag_names=("O", "B-PER"))).clean([raw], "train").records
    assert record["tags"] == ["B-PER", "-100", "O"]


def test_the_loss_of_an_untagged_word_is_nil() -> None:
    task = POS(POS.Options(labels=("A", "B")))
    (record,) = task.clean([{"tokens": ["a", "b", "c"], "tags": ["A", None, "B"]}], "train").records
    (feature,) = task.encode(record, Reading(tiny_tokenizer(), 64), labelled=True)
    assert sorted(label for label in feature.labels if label != -100) == [0, 1]


def test_the_accuracy_of_words_leaves_untagged_words_out_as_scikit_learn_would() -> None:
    task = POS(POS.Options(labels=("A", "B")))
    (record,) = task.clean([{"tokens": ["a", "b", "c"], "tags": ["A", -1, "B"]}], "test").records
    scores = task.score([record], [{"words": [{"tag": tag} for tag in "AAA"]}])
    assert scores["accuracy"] == pytest.approx(100 * accuracy_score(["A", "B"], ["A", "A"]))
    assert task.support([record]) == 2


def test_a_sentence_without_any_tag_is_left_out() -> None:
    rows = [{"where": "a:1", "tokens": ["x"], "tags": [-1]}, {"where": "a:2", "tokens": ["y", "z"], "tags": ["A", "B"]}]
    cleaned = POS(POS.Options()).clean(rows, "train")
    assert [record["where"] for record in cleaned.records] == ["a:2"]
    assert any("1 sentences have no tagged word" in line for line in cleaned.notes)
