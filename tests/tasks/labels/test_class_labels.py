"""Labels: printed lists, numbers, empty cells, wrong columns; macro F1 is scikit-learn's."""

import math
import re
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from adaptdock.engine.core.assembly import make_task
from adaptdock.errors import DataError, UsageError
from adaptdock.plugins import registry
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.embedding import Embedding
from adaptdock.tasks.labels.printed_lists import printed_list
from adaptdock.tasks.ner import NER
from adaptdock.tasks.pos import POS
from adaptdock.tasks.regression import Regression


def clean(*labels: Any, split: str = "train", texts: Any = None, **options: Any) -> Any:
    rows = [
        {"where": f"a.csv:{number}", "text": texts[number - 2] if texts else f"text {number}", "label": label}
        for number, label in enumerate(labels, 2)
    ]
    return Classification(Classification.Options(**options)).clean(rows, split)


def labels(cleaned: Any) -> list[Any]:
    return [record["label"] for record in cleaned.records]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['a', 'b']", ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("('a', 'b')", ["a", "b"]),
        ("{'b', 'a'}", ["a", "b"]),
        ("['a' 'b']", ["a", "b"]),
        ("[0 1]", ["0", "1"]),
        ("[]", []),
        ("[spam]", None),
        ("a;b", None),
        ("(good)", None),
        ("[UNK] x [y]", None),
    ],
)
def test_a_printed_list_is_one(text: str, expected: list[str] | None) -> None:
    assert printed_list(text) == expected


@pytest.mark.parametrize("label", ["['a', 'b']", '["a"]', "[]", ["a", "b"]])
def test_several_labels_are_refused_and_the_advice_works(label: Any) -> None:
    with pytest.raises(DataError, match=r"a\.csv:3: .*--multi-label"):
        clean("a", label)
    expected = [] if label == "[]" else ["a"] if label == '["a"]' else ["a", "b"]
    assert labels(clean("a", label, multi_label=True)) == [["a"], expected]


def test_embeddings_take_one_label_of_a_text() -> None:
    for label in ("['a', 'b']", ["a", "b"], "", "nan"):
        with pytest.raises(DataError, match=r"a\.csv:2: .*label"):
            Embedding(Embedding.Options()).clean([{"where": "a.csv:2", "text": "x", "label": label}], "train")


def test_lists_of_spans_are_no_labels() -> None:
    with pytest.raises(DataError, match="spans of characters"):
        clean([[0, 9, "PER"]])


@pytest.mark.parametrize("label", ["", " ", "nan", "NaN", "<NA>", None, math.nan])
def test_records_without_a_label_are_counted(label: Any) -> None:
    with pytest.raises(DataError, match=r"a\.csv:3: .*; 2 of 4 records of train have none"):
        clean("a", label, label, "b")


def test_whole_numbers_are_the_same_class_however_they_are_written() -> None:
    cleaned = clean("1.0", "1", 1.0, 1, "0.0", "1.5")
    assert labels(cleaned) == ["1", "1", "1", "1", "0", "1.5"]
    assert cleaned.notes == ["train: 3 labels are whole numbers with a fraction, such as '1.0', read as '1'"]
    assert labels(clean("1.0", "0.0", labels=("0.0", "1.0"))) == ["1.0", "0.0"]  # as an adapter has learnt them


def test_names_that_differ_in_case_or_stand_for_nothing_are_said() -> None:
    notes = clean("Pos", "pos", "None").notes
    assert "'None' is taken as a class, of 1 records" in notes[0]
    assert "the labels 'Pos' (1) and 'pos' (1) differ only in case" in notes[1]
    task = Classification(Classification.Options(labels=("neg", "pos")))
    with pytest.raises(DataError, match="Is 'pos' meant"):
        task.check([{"where": "a", "label": "Pos"}], "test")


def test_a_class_for_nearly_each_record_is_refused_unless_they_are_listed() -> None:
    names = [f"n{number}" for number in range(20)]
    with pytest.raises(DataError, match=r"20 different labels in 20 training records.*--labels lists them"):
        clean(*names)
    assert len(clean(*names, labels=tuple(names)).records) == 20
    with pytest.raises(DataError, match="--task regression learns numbers"):
        clean(*range(20))
    assert "--columns label=COLUMN" in clean(*names[:10] * 2).notes[0]
    assert clean(*names[:4] * 5).notes == clean(*names, split="test").notes == []


def test_texts_that_are_numbers_or_all_the_same_are_said() -> None:
    assert "each text is a number, such as '1'" in clean(*"ab" * 5, texts=[str(n) for n in range(1, 11)]).notes[0]
    assert "all 10 texts are the same, 'x'" in clean(*"ab" * 5, texts=["x"] * 10).notes[0]
    rows = [{"text": "7", "label": number} for number in range(10)]
    assert "each text is a number" in Regression(Regression.Options()).clean(rows, "train").notes[0]


@example([("sport", "sport"), ("sport", "sport"), ("sport", "politics"), ("sport", "sport")])
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=12))
def test_macro_f1_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, found = [want for want, _ in pairs], [got for _, got in pairs]
    expected = pytest.approx(100 * f1_score(gold, found, average="macro", zero_division=0), abs=0.01)
    predictions = [{"label": name, "score": 1.0, "scores": {name: 1.0}} for name in found]
    task = Classification(Classification.Options(labels=tuple(sorted({*gold, *found, "e"}))))
    assert task.score([{"label": name} for name in gold], predictions)["macro_f1"] == expected
    words = [{"words": [{"tag": name} for name in found]}]
    assert POS(POS.Options(labels=("a", "b"))).score([{"tags": gold}], words)["macro_f1"] == expected


@pytest.mark.parametrize("separator", [",", ";", "#", ", "])
def test_lists_with_another_separator_are_refused_and_the_advice_works(separator: str) -> None:
    labels = ("red", f"green{separator}blue", "", "blue", f"red{separator}green")
    advice = f"--label-separator '{separator[0]}' divides them"
    with pytest.raises(DataError, match=rf"a\.csv:3: 2 different labels hold .*{advice}.*--labels lists"):
        clean(*labels, multi_label=True)
    divided = clean(*labels, multi_label=True, label_separator=separator[0]).records
    assert [{name.strip() for name in record["label"]} for record in divided] == [
        {"red"},
        {"blue", "green"},
        set(),
        {"blue"},
        {"green", "red"},
    ]
    assert clean(*labels, multi_label=True, labels=sorted({*labels} - {""})).records[1]["label"] == [labels[1]]


def test_a_label_with_a_comma_in_it_stays_whole_with_a_note() -> None:
    cleaned = clean("law, tax", "news", "law, tax", multi_label=True)
    assert [record["label"] for record in cleaned.records] == [["law, tax"], ["news"], ["law, tax"]]
    assert any("are taken as one label (--label-separator ',' divides them)" in note for note in cleaned.notes)
    assert clean("a|b", "c,d", multi_label=True).records[1]["label"] == ["c,d"]


@pytest.mark.parametrize("tags", [[1, 0, 2], "1 0 2", "[1, 0, 2]"])
def test_numbers_of_tags_become_the_names_that_were_given(tags: Any) -> None:
    names = ("O", "B-PER", "B-LOC")
    record = {"where": "a.jsonl:1", "tokens": ["Ada", "in", "Rome"], "tags": tags}
    task = NER(NER.Options(tag_names=names))
    assert task.clean([record], "train").records[0]["tags"] == ["B-PER", "O", "B-LOC"]
    assert task.labels(record) == ["B-LOC", "B-PER", "O"]
    pos = POS(POS.Options(tag_names=("X", "NOUN", "VERB")))
    assert pos.clean([record], "train").records[0]["tags"] == ["NOUN", "X", "VERB"]
    with pytest.raises(DataError, match=r"a\.jsonl:1: the tag 2 has no name: --tag-names gives 2, for 0 to 1"):
        NER(NER.Options(tag_names=names[:2])).clean([record], "train")
    with pytest.raises(DataError, match="--tag-names O,B-PER,I-PER gives the names of 0, 1, 2"):
        NER(NER.Options()).clean([{**record, "tags": [1, 0, 2]}], "train")


LABELS = st.sampled_from(["a", "b", "c", "new", "newer"])


@given(st.lists(st.tuples(LABELS, st.sampled_from(["a", "b", "c"])), min_size=1, max_size=30))
def test_macro_f1_with_unknown_labels_is_scikit_learn_s(pairs: list[tuple[str, str]]) -> None:
    task = make_task("classification", {"labels": ["a", "b", "c"]})
    gold, predicted = [want for want, _ in pairs], [got for _, got in pairs]
    records = [{"text": "x", "label": label} for label in gold]
    answers = [{"label": label, "score": 1.0, "scores": {label: 1.0}} for label in predicted]
    metrics = task.score(records, answers)
    assert metrics["macro_f1"] == round(100 * f1_score(gold, predicted, average="macro", zero_division=0), 2)
    assert metrics["accuracy"] == round(100 * accuracy_score(gold, predicted), 2)
    assert task.unknown(records) == Counter(label for label in gold if label.startswith("new"))
    assert {name: row["support"] for name, row in metrics["by_class"].items() if row["support"]} == Counter(gold)


@given(st.lists(st.tuples(st.sets(LABELS), st.sets(st.sampled_from(["a", "b", "c"]))), min_size=1, max_size=30))
def test_macro_f1_of_sets_with_unknown_labels_is_scikit_learn_s(pairs: list[tuple[set[str], set[str]]]) -> None:
    task = make_task("classification", {"labels": ["a", "b", "c"], "multi_label": True})
    records = [{"text": "x", "label": sorted(want)} for want, _ in pairs]
    names = ["a", "b", "c", *sorted({name for want, _ in pairs for name in want if name.startswith("new")})]
    binarizer = MultiLabelBinarizer(classes=names).fit([])
    want, got = (binarizer.transform(column) for column in zip(*pairs, strict=True))
    metrics = task.score(records, [{"labels": sorted(labels)} for _, labels in pairs])
    assert metrics["macro_f1"] == round(100 * f1_score(want, got, average="macro", zero_division=0), 2)
    assert metrics["micro_f1"] == round(100 * f1_score(want, got, average="micro", zero_division=0), 2)


def test_the_loss_does_not_count_a_class_that_training_has_not_seen() -> None:
    task = make_task("classification", {"labels": ["a", "b"]})
    targets = torch.tensor([task.target({"text": "x", "label": label}) for label in ("a", "new")])
    logits = torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    assert task.loss(logits, targets, None) == task.loss(logits[:1], targets[:1], None)


LABELLED = [plugin.name for plugin, kind in registry.usable("task") if "labels" in kind.Options.model_fields]


@pytest.mark.parametrize("task", LABELLED)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["A", "A"], "the label 'A' is there twice"),
        (["A", ""], "the label at place 2 is empty"),
        ([" \t", "A"], "the label at place 1 is empty"),
        (["x" * 1001, "A"], "has 1,001 characters; at most 1,000 are allowed"),
    ],
)
def test_labels_that_answers_could_not_tell_apart_are_refused(task: str, labels: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=f"labels: .*{re.escape(message)}"):
        make_task(task, {"labels": labels})


def test_every_task_of_the_package_with_labels_is_among_them() -> None:
    assert {"ner", "pos", "classification", "spans", "multilabel-tokens", "image-classification"} <= set(LABELLED)
