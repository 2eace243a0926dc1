"""Answers of questions: flat tables, no offsets, no ids, questions that are marked as impossible."""

import json
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import DataError
from adaptdock.tasks.qa import QA

CONTEXT = "Mira moved to Lund, and Lund it is."


def cleaned(path: Path) -> tuple[list[Any], list[str]]:
    result = QA(QA.Options()).clean(Reader(QA, Source()).file(path), "train")
    return [record["answers"] for record in result.records], result.notes


def squad(path: Path, *questions: dict[str, Any]) -> Path:
    asked = [{"question": "where?", **question} for question in questions]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": asked}]}]}))
    return path


def test_flat_tables_have_the_offset_in_a_column_of_its_own(tmp_path: Path) -> None:
    header = "question,context,answer,answer_start,is_impossible\n"
    rows = f'where?,"{CONTEXT}",Lund,14,False\nwho?,"{CONTEXT}",,,\nwhy?,"{CONTEXT}",Mira,0,True\n'
    (tmp_path / "a.csv").write_text(header + rows)
    answers, notes = cleaned(tmp_path / "a.csv")
    assert answers == [[{"text": "Lund", "start": 14}], [], []]
    assert "1 questions have answers, but is_impossible is true" in notes[0]
    row = {"question": "where?", "context": CONTEXT, "answer": "Lund", "answer_start": 24}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert cleaned(tmp_path / "a.jsonl")[0] == [[{"text": "Lund", "start": 24}]]


def test_objects_that_were_printed_into_a_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        f"question,context,answers\nwhere?,\"{CONTEXT}\",\"{{'text': ['Lund'], 'answer_start': [14]}}\"\n"
    )
    assert cleaned(tmp_path / "a.csv")[0] == [[{"text": "Lund", "start": 14}]]


def test_an_impossible_question_has_no_answer_whatever_stands_beside_it(tmp_path: Path) -> None:
    plausible = {"answers": [{"text": "Lund", "answer_start": 14}], "is_impossible": True, "id": "1"}
    empty = {"answers": [{"text": "", "answer_start": 0}], "is_impossible": True, "id": "2"}
    answered = {"answers": [{"text": "Lund", "answer_start": 14}], "is_impossible": False, "id": "3"}
    answers, notes = cleaned(squad(tmp_path / "a.json", plausible, empty, answered))
    assert answers == [[], [], [{"text": "Lund", "start": 14}]]
    assert notes[0].startswith("train: 1 questions have answers, but is_impossible")


def test_an_answer_without_an_offset_is_located_and_counted(tmp_path: Path) -> None:
    answers, notes = cleaned(
        squad(tmp_path / "a.json", {"answers": [{"text": "Mira"}]}, {"answers": [{"text": "Lund"}]})
    )
    assert answers == [[{"text": "Mira", "start": 0}], [{"text": "Lund", "start": 14}]]
    assert "2 answers have no offset, and were located in the context (1 occur several times: the first" in notes[0]
    assert "question 1" in notes[0]  # there is no id to name it by


def test_what_cannot_be_read_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no question is left of 1.*question 1.*--repair moves"):
        cleaned(squad(tmp_path / "a.json", {"answers": [{"text": "Lund", "answer_start": 3}]}))
    with pytest.raises(DataError, match="is_impossible is true or false; found 'maybe'"):
        cleaned(squad(tmp_path / "a.json", {"answers": [], "is_impossible": "maybe"}))
    (tmp_path / "a.csv").write_text("question,context,answer,answer_start\na,b,b,first\n")
    with pytest.raises(DataError, match="answer_start is the number of a character; found 'first'"):
        cleaned(tmp_path / "a.csv")


def clean(*rows: dict[str, Any], **options: Any) -> Any:
    places = [{"where": f"a:{number}", "question": "q", **row} for number, row in enumerate(rows)]
    return QA(QA.Options(**options)).clean(places, "train")


@pytest.mark.parametrize("answer", ["", " ", [""], {"text": "", "answer_start": 0}, [{"text": "", "answer_start": -1}]])
def test_an_empty_text_is_no_answer(answer: Any) -> None:
    read = clean({"context": "in Lund", "answers": answer})
    assert read.records[0]["answers"] == []
    assert answer == "" or any("1 questions have an empty text" in line for line in read.notes)


@pytest.mark.parametrize("start", [2, 4])
def test_an_offset_that_is_off_by_one_is_repaired_and_counted(start: int) -> None:
    read = clean({"context": "in Lund", "answers": {"text": ["Lund"], "answer_start": [start]}})
    assert read.records[0]["answers"] == [{"text": "Lund", "start": 3}]
    assert read.notes == ["train: 1 answers were off by one character and moved: a:0"]


def test_an_offset_that_is_off_by_more_is_skipped_and_counted() -> None:
    right = {"context": "in Lund", "answers": ["Lund"]}
    read = clean(right, {"context": "in Lund", "answers": {"text": ["Lund"], "answer_start": [0]}})
    assert len(read.records) == 1
    assert any("1 questions were skipped" in line and "a:1" in line for line in read.notes)


def test_a_list_of_contexts_is_joined_and_the_answer_is_located_in_it() -> None:
    read = clean({"context": ["Mira moved.", "She is in Lund."], "answers": ["Lund"]})
    (record,) = read.records
    (answer,) = record["answers"]
    assert record["context"] == "Mira moved.\nShe is in Lund."
    assert record["context"][answer["start"] :].startswith("Lund")
    assert any("1 questions have a list of contexts" in line for line in read.notes)


def test_a_printed_list_of_answers_is_a_list() -> None:
    (record,) = clean({"context": "in Lund", "answers": "['Lund', 'in Lund']"}).records
    assert [answer["text"] for answer in record["answers"]] == ["Lund", "in Lund"]
