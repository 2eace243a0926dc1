"""The choice task: forms of questions and answers, accuracy, predictions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_tokenizer

from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.loop.run import train_plan
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import DataError
from adaptdock.hub.artefact.file import read_file
from adaptdock.plugins.contracts import Backbone, Reading
from adaptdock.tasks.choice import Choice

TEXTS = ["a tomato", "grass", "the sky"]


def make(**options: Any) -> Choice:
    return Choice(Choice.Options(**options))


def clean(*answers: Any, choices: Any = TEXTS, **options: Any) -> tuple[list[int], list[str]]:
    rows = [
        {"where": f"a:{number}", "question": "What is red?", "choices": choices, "answer": answer}
        for number, answer in enumerate(answers, 1)
    ]
    cleaned = make(**options).clean(rows, "train")
    return [record["answer"] for record in cleaned.records], cleaned.notes


DATA_SETS: dict[str, list[dict[str, Any]]] = {
    "ARC, CommonsenseQA": [
        {"question": "What is red?", "choices": {"text": TEXTS, "label": ["A", "B", "C"]}, "answerKey": "C"}
    ],
    "ARC with numbers as keys": [
        {"question": "What is red?", "choices": {"text": TEXTS, "label": ["1", "2", "3"]}, "answerKey": "3"}
    ],
    "ARC as published": [
        {
            "question": {
                "stem": "What is red?",
                "choices": [{"text": t, "label": k} for t, k in zip(TEXTS, "ABC", strict=True)],
            },
            "answerKey": "C",
        }
    ],
    "SWAG": [
        {
            "sent1": "What",
            "sent2": "is red?",
            "ending0": TEXTS[0],
            "ending1": TEXTS[1],
            "ending2": TEXTS[2],
            "label": 2,
        },
        {
            "sent1": "What",
            "sent2": "is red?",
            "ending0": TEXTS[0],
            "ending1": TEXTS[1],
            "ending2": TEXTS[2],
            "label": 0,
        },
    ],
    "HellaSwag": [
        {"ctx": "What is red?", "endings": TEXTS, "label": "2"},
        {"ctx": "What is red?", "endings": TEXTS, "label": "0"},
    ],
    "Social IQa": [
        {
            "context": "x",
            "question": "What is red?",
            "answerA": TEXTS[0],
            "answerB": TEXTS[1],
            "answerC": TEXTS[2],
            "label": "3",
        }
    ],
    "RACE": [{"article": "x", "question": "What is red?", "options": TEXTS, "answer": "C"}],
    "texts": [{"question": "What is red?", "choices": TEXTS, "answer": "the sky"}],
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_known_data_set_is_read_without_a_word(name: str, tmp_path: Path) -> None:
    rows = "\n".join(json.dumps(row) for row in DATA_SETS[name])
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(rows)
    splits, _ = load_splits(Source(data=str(tmp_path)), Choice)
    record = make().clean(splits["train"], "train").records[0]
    assert (record["question"], record["choices"], record["answer"]) == ("What is red?", TEXTS, 2)


@pytest.mark.parametrize(
    ("answers", "numbers"),
    [
        (["grass", "a tomato"], [1, 0]),
        (["B", "a"], [1, 0]),
        ([1, 0], [1, 0]),
        (["3", "1"], [2, 0]),
        ([2.0, 3.0], [1, 2]),
    ],
)
def test_the_form_of_the_answers_is_found_and_said(answers: list[Any], numbers: list[int]) -> None:
    found, notes = clean(*answers)
    assert found == numbers
    assert bool(notes) == (answers[0] != "grass")


def test_numbers_that_may_count_from_0_or_from_1_are_not_guessed() -> None:
    with pytest.raises(DataError, match=r"a:1: .* numbers from 0 and as numbers from 1.*--answer-form from-1"):
        clean(1, 2, 1)
    assert clean(1, 2, 1, answer_form="from-1")[0] == [0, 1, 0]
    assert clean(1, 2, 1, answer_form="from-0")[0] == [1, 2, 1]


def test_a_choice_that_is_a_number_is_not_taken_for_the_number_of_a_choice() -> None:
    with pytest.raises(DataError, match="texts of choices and as"):
        clean("2", "1", choices=["2", "1", "3"])
    assert clean("2", "1", choices=["2", "1", "3"], answer_form="text")[0] == [0, 1]
    assert clean("-1", choices=["-1", "1"])[0] == [0]


def test_questions_without_an_answer_are_left_out_and_counted() -> None:
    numbers, notes = clean("grass", None, "-1", "")
    assert numbers == [1]
    assert "3 questions have no answer and are left out: a:2, a:3, a:4" in notes[0]
    with pytest.raises(DataError, match="the answer is missing"):
        clean(None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "choices": ["a"], "answer": 0}, "two choices or more"),
        ({"question": "q", "answer": 0}, "two choices or more"),
        ({"question": "q", "choices": ["a", "a "], "answer": 0}, "the same text"),
        ({"question": "q", "choices": ["a", None], "answer": 0}, "a choice is a text"),
        ({"question": "", "choices": ["a", "b"], "answer": 0}, "the question is a text"),
        ({"question": "q", "choices": ["red", "blue"], "answer": "green"}, "'green' is none of the choices"),
        ({"question": "q", "choices": ["red", "blue"], "answer": 5}, "5 is none of the choices"),
    ],
)
def test_data_that_says_something_else_is_refused_with_its_place(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"a:1: .*{message}"):
        make().clean([{"where": "a:1", **row}], "train")


def test_a_context_is_read_in_windows_behind_question_and_choice() -> None:
    task = make()
    record = task.read({"question": "who", "choices": ["ada", "bob"], "context": "bob ran and ran " * 6})
    features = task.encode(record, Reading(tiny_tokenizer(), 32), labelled=False)
    assert sorted({feature.alignment for feature in features}) == [0, 1]
    assert len(features) > 4
    digests = [torch.tensor([1.0 if number == len(features) - 1 else 0.0]) for number in range(len(features))]
    prediction = task.decode(record, features, digests)
    assert (prediction["answer"], prediction["index"]) == ("bob", 1)
    assert prediction["scores"] == pytest.approx(torch.tensor([0.0, 1.0]).softmax(0).tolist(), abs=1e-4)


def test_the_metrics_name_the_accuracy_of_chance() -> None:
    records = [{"choices": ["a", "b"], "answer": 0}, {"choices": ["a", "b", "c", "d"], "answer": 3}]
    assert make().score(records, [{"index": 0}, {"index": 0}]) == {"accuracy": 50.0, "chance": 37.5}
    assert make().of_sums([1.0, 2.0]) == 50.0


def test_the_sample_is_learnt_saved_and_used(backbone: Backbone, dock: Dock, tmp_path: Path) -> None:
    made = plan(backbone, "choice", "lora", Source(), {"epochs": 1, "learning_rate": 1e-2, "min_steps": 0})
    result = train_plan(made, tmp_path)
    adapter = dock.dock(read_file(result.file))
    answer = dock.predict(adapter, [{"question": "What is red?", "choices": TEXTS}])[0]
    assert answer["answer"] == TEXTS[answer["index"]]
    assert sum(answer["scores"]) == pytest.approx(1, abs=1e-3)
    assert result.adapter.card.probes is not None
