"""Hold-out: no label loses its last training example, whatever the seed; shares are kept, groups stay together."""

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.holdout import DUPLICATES, ONE_GROUP, hold_out, shuffled
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.training.planning.plan import plan
from adaptdock.engine.training.repeats.cross_validation import divide
from adaptdock.errors import DataError
from adaptdock.plugins.contracts import Backbone, Record, Task
from adaptdock.tasks.classification import Classification

SEEDS = st.integers(0, 2**31)


def labels_of(task: Task, records: Sequence[Record]) -> set[Hashable]:
    return {label for record in records for label in task.labels(record)}


def texts(counts: dict[str, int]) -> list[Record]:
    rows = [(label, number) for label, count in counts.items() for number in range(count)]
    return [{"text": f"{label} {number}", "label": label, "where": f"{label}:{number}"} for label, number in rows]


@given(SEEDS, st.lists(st.integers(1, 30), min_size=2, max_size=6))
def test_classes_are_held_out_in_proportion_and_none_is_lost(seed: int, counts: list[int]) -> None:
    task = make_task("classification", {})
    records = texts({f"class {number}": count for number, count in enumerate(counts)})
    if max(counts) == 1:
        with pytest.raises(DataError, match=r"each is the only example of a label.*--train and --validation"):
            hold_out(records, seed, type(task), task)
        return
    splits, notes = hold_out(records, seed, type(task), task)
    assert hold_out(records, seed, type(task), task) == (splits, notes)
    assert sorted(record["text"] for part in splits.values() for record in part) == sorted(
        record["text"] for record in records
    )
    assert labels_of(task, splits["train"]) == labels_of(task, records)
    held, size = Counter(record["label"] for record in splits["validation"]), len(records)
    wanted = max(1, size // 10)
    assert held.total() == wanted
    if min(counts) > 2 * wanted:  # no class is too small for its share
        assert all(abs(held[f"class {number}"] - wanted * count / size) < 1 for number, count in enumerate(counts))
    lacking = labels_of(task, records) - labels_of(task, splits["validation"])
    assert [f"no example of {len(lacking)} of {len(counts)} labels" in note for note in notes] == [True] * bool(lacking)


SENTENCES = st.lists(st.lists(st.sampled_from(["O", "B-PER", "B-LOC", "B-RARE"]), min_size=1, max_size=4), min_size=4)


@given(SEEDS, SENTENCES, st.sampled_from(["ner", "chunking", "pos"]))
def test_no_tag_is_lost_and_every_division_can_be_trained_on(seed: int, tags: list[list[str]], name: str) -> None:
    task = make_task(name, {})
    common = [["B-PER", "O", "B-LOC"]] * 10
    records = [{"tokens": ["w"] * len(own), "tags": own, "where": str(n)} for n, own in enumerate([*common, *tags])]
    splits, _ = hold_out(records, seed, type(task), task)
    assert labels_of(task, splits["train"]) == labels_of(task, records)
    fitted = task.fit(task.clean(splits["train"], "train").records)
    fitted.check(task.clean(splits["validation"], "validation").records, "validation")


@given(SEEDS, st.lists(st.sets(st.sampled_from("abcd")), min_size=2, max_size=20))
def test_of_several_labels_none_is_lost(seed: int, sets: list[set[str]]) -> None:
    task = make_task("classification", {"multi_label": True})
    common = [{"a", "b"}, {"a", "b"}, {"c", "d"}, {"c", "d"}]
    rows = [{"text": "t", "label": "|".join(sorted(own)), "where": str(n)} for n, own in enumerate([*common, *sets])]
    splits, _ = hold_out(rows, seed, type(task), task)
    assert labels_of(task, splits["train"]) == {"a", "b", "c", "d"}


@given(SEEDS, st.integers(1, 3))
def test_an_article_stays_whole_and_the_only_question_without_an_answer_in_training(seed: int, questions: int) -> None:
    task = make_task("qa", {})
    records: list[Record] = [
        {"question": "Who?", "context": f"Ada sings {article}.", "title": str(article), "where": f"{article}:{number}"}
        | {"answers": [] if article == 3 else [{"text": "Ada", "answer_start": 0}]}
        for article in range(8)
        for number in range(questions)
    ]
    splits, notes = hold_out(records, seed, type(task), task)
    assert not {record["title"] for record in splits["train"]} & {record["title"] for record in splits["validation"]}
    assert labels_of(task, splits["train"]) == {"answer", "no answer"}
    assert notes == ["the held-out validation data has no example of 1 of 2 labels, such as 'no answer'"]


@pytest.mark.parametrize("seed", range(5))
def test_so_much_is_held_out_that_the_task_can_measure_something(seed: int) -> None:
    task = make_task("embedding", {})
    records = texts({"a": 8, "b": 8})
    splits, _ = hold_out(records, seed, type(task), task)
    pairs = [record for record in task.clean(splits["validation"], "validation").records if "positive" in record]
    assert pairs
    assert len(splits["validation"]) == 3


def test_a_fault_of_the_data_is_named_as_it_is() -> None:
    task = make_task("classification", {})
    with pytest.raises(DataError, match="one class only"):
        hold_out(texts({"a": 8}), 0, type(task), task)
    with pytest.raises(DataError, match="here:1: the label is missing"):
        hold_out([*texts({"a": 8}), {"text": "t", "label": None, "where": "here:1"}], 0, type(task), task)


def test_a_run_keeps_the_only_example_of_a_class_for_training_and_says_what_validation_lacks(
    backbone: Backbone, tmp_path: Path
) -> None:
    rows = [{"text": text["text"], "label": text["label"]} for text in texts({"pos": 12, "neg": 12, "unsure": 1})]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(5):
        options = {"seed": seed, "hold_out": "always"}
        made = plan(backbone, "classification", "lora", Source(data=str(tmp_path / "train.jsonl")), options)
        assert made.task.options.labels == ("neg", "pos", "unsure")
        assert any("no example of 1 of 3 labels, such as 'unsure'" in note for note in made.notes)


def test_a_fold_whose_training_part_lacks_a_label_is_trained_all_the_same(backbone: Backbone, tmp_path: Path) -> None:
    from adaptdock.engine.training.loop.run import train_plan

    rows = [{"text": text["text"], "label": text["label"]} for text in texts({"pos": 4, "neg": 4, "unsure": 1})]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(train=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "train.jsonl"))
    made = plan(backbone, "classification", "lora", source, {"epochs": 1}, task_options=None)
    folds = divide(made, 3)
    (lacking,) = [fold for fold in folds if "unsure" not in {record["label"] for record in fold.records["train"]}]
    assert train_plan(lacking, tmp_path / "run").ending == "complete"


def test_test_data_alone_is_read_without_looking_at_labels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts({"a": 2, "b": 2})))
    splits, _ = load_splits(Source(data=str(tmp_path)), type(make_task("classification", {})))
    assert {split: len(records) for split, records in splits.items()} == {"train": 3, "validation": 1, "test": 4}


@pytest.mark.parametrize("titles", [["The chapel"], ["The chapel", "The bridge"]])
def test_questions_on_a_single_article_are_held_out_one_by_one_and_it_is_said(titles: list[str]) -> None:
    task = make_task("qa", {"no_answer": "off"})
    records = [
        {
            "question": f"Who made number {n}?",
            "context": f"Ines made number {n}.",
            "answers": [],
            "title": titles[n % len(titles)],
        }
        for n in range(20)
    ]
    for record in records:
        record["answers"] = [{"text": "Ines", "answer_start": 0}]
    splits, notes = hold_out(records, 0, type(task), task)
    assert len(splits["validation"]) == (2 if len(titles) == 1 else 10)
    assert (ONE_GROUP in notes) == (len(titles) == 1)


def test_records_that_are_all_the_same_question_cannot_be_divided() -> None:
    task = make_task("qa", {"no_answer": "off"})
    answers = [{"text": "Ines", "answer_start": 0}]
    records = [{"question": "Who?", "context": "Ines did.", "answers": answers, "title": "a"} for _ in range(3)]
    with pytest.raises(
        DataError, match=r"3 training records on one input .* --train and --validation, or add examples"
    ):
        hold_out(records, 0, type(task), task)


@given(SEEDS, st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["x", "y"])), min_size=8, max_size=40))
def test_duplicates_are_never_divided_unless_nothing_else_can_be_held_out(
    seed: int, rows: list[tuple[int, str]]
) -> None:
    task = make_task("classification", {})
    records: list[Record] = [
        {"text": f"Text  {number}" if place % 2 else f"text {number} ", "label": label, "where": str(place)}
        for place, (number, label) in enumerate(rows)
    ]
    try:
        splits, notes = hold_out(records, seed, type(task), task)
    except DataError:
        assert min(Counter(label for _, label in rows).values()) < 2 or len({label for _, label in rows}) < 2
        return
    inputs = {split: {" ".join(record["text"].split()).lower() for record in part} for split, part in splits.items()}
    assert splits["validation"]
    assert not inputs["train"] & inputs["validation"] or DUPLICATES in notes
    assert sorted(record["where"] for part in splits.values() for record in part) == sorted(
        record["where"] for record in records
    )


def test_sentences_of_one_document_and_their_duplicates_stay_together() -> None:
    task = make_task("ner", {})
    records: list[Record] = [
        {"tokens": ["Ada", "runs", str(number % 30)], "tags": ["B-PER", "O", "O"], "document": f"d{number // 3}"}
        for number in range(60)
    ]
    for seed in range(10):
        splits, notes = hold_out(records, seed, type(task), task)
        held = {record["document"] for record in splits["validation"]}
        assert not held & {record["document"] for record in splits["train"]}
        words = {split: {record["tokens"][2] for record in part} for split, part in splits.items()}
        assert not words["train"] & words["validation"]
        assert notes == []


def test_one_text_that_is_most_of_the_data_is_not_most_of_the_validation_data() -> None:
    task = make_task("classification", {})
    records = [{"text": "ok", "label": "a"}] * 80 + texts({"a": 10, "b": 10})
    for seed in range(10):
        splits, _ = hold_out(records, seed, type(task), task)
        assert len(splits["validation"]) <= 20
        assert "ok" not in {record["text"] for record in splits["validation"]}


def test_data_that_are_duplicates_of_each_other_are_divided_and_it_is_said() -> None:
    task = make_task("classification", {})
    records: list[Record] = [{"text": label, "label": label, "where": "a"} for label in "ab" for _ in range(10)]
    splits, notes = hold_out(records, 0, type(task), task)
    assert {record["label"] for record in splits["validation"]} == {"a", "b"}
    assert notes == [DUPLICATES]


def test_labels_that_are_missing_are_refused_with_their_number_and_the_way_out_before_anything_is_held_out() -> None:
    rows = [
        {"where": f"a.csv:{number}", "text": f"t{number}", "label": "x" if number % 2 else ""} for number in range(9)
    ]
    with pytest.raises(DataError, match=r"a\.csv:0: .*; 5 of 9 records of train have none.*--out-of-scope"):
        hold_out(rows, 0, Classification, Classification(Classification.Options()))


@given(SEEDS, st.integers(0, 100))
def test_the_order_of_the_draw_is_that_of_a_sample(seed: int, count: int) -> None:
    generator, of_library = Random(seed), Random(seed)
    assert list(shuffled(count, generator)) == of_library.sample(range(count), count)
    assert generator.getstate() == of_library.getstate()
