"""Exports of annotation tools: each form gives the text and its spans or labels; what is left out is counted."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from adaptdock.engine.data.sources import Reader, Source, load_splits
from adaptdock.errors import DataError
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.ner import NER
from adaptdock.tasks.pair import Pair
from adaptdock.tasks.qa import QA

TEXT = "Mira Holt moved to Lund."
SPANS = [("Mira Holt", "PER"), ("Lund", "LOC")]
TRIPLES = [[0, 9, "PER"], [19, 23, "LOC"]]
OBJECTS = [
    {"id": 7, "label": "PER", "start_offset": 0, "end_offset": 9},
    {"id": 8, "label": "LOC", "start_offset": 19, "end_offset": 23},
]
TOKENS = [
    {"text": text, "start": start, "end": start + len(text), "id": number}
    for number, (text, start) in enumerate(
        (("Mira", 0), ("Holt", 5), ("moved", 10), ("to", 16), ("Lund", 19), (".", 23))
    )
]


def studio(*annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {"id": 3, "data": {"text": TEXT, "source": "web", **data}, "annotations": list(annotations)}


def region(number: int, start: int, end: int, label: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": TEXT[start:end], "labels": [label]}
    return {"id": f"r{number}", "type": "labels", "from_name": "label", "to_name": "text", "value": value}


RESULT = [region(1, 0, 9, "PER"), region(2, 19, 23, "LOC")]
STUDIO_MIN = {
    "text": TEXT,
    "id": 3,
    "label": [result["value"] for result in RESULT],
    "annotator": 1,
    "annotation_id": 5,
    "created_at": "2026-01-01",
    "updated_at": "2026-01-01",
    "lead_time": 3.1,
}
META = {name: STUDIO_MIN[name] for name in ("annotator", "annotation_id", "created_at", "updated_at", "lead_time")}


def objects(start: str, end: str, label: str, stated: str = "") -> list[dict[str, Any]]:
    bounds = [(first, last, name, {stated: TEXT[first:last]} if stated else {}) for first, last, name in TRIPLES]
    return [{start: first, end: last, label: name, **text} for first, last, name, text in bounds]


PRODIGY = {
    "text": TEXT,
    "_input_hash": 1,
    "_task_hash": 2,
    "tokens": TOKENS,
    "spans": objects("start", "end", "label"),
    "answer": "accept",
}
FORMS: dict[str, tuple[Any, str]] = {
    "doccano": ({"id": 1, "text": TEXT, "label": TRIPLES, "Comments": []}, "doccano"),
    "doccano of an older release": ({"id": 1, "data": TEXT, "label": TRIPLES}, "doccano"),
    "doccano with relations": ({"id": 1, "text": TEXT, "entities": OBJECTS, "relations": []}, "doccano"),
    "doccano with intents": ({"id": 1, "text": TEXT, "entities": TRIPLES, "cats": ["move"]}, "doccano"),
    "prodigy": (PRODIGY, "prodigy"),
    "label studio": (studio({"id": 1, "result": RESULT}), "label-studio"),
    "label studio before 1.0": ({"data": {"text": TEXT}, "completions": [{"result": RESULT}]}, "label-studio"),
    "label studio, short": (STUDIO_MIN, "label-studio-min"),
    "spacy": ([TEXT, {"entities": TRIPLES}], "spacy"),
    "any": ({"text": TEXT, "spans": objects("begin", "end", "type")}, "spans"),
    "predictions of a pipeline": ({"text": TEXT, "entities": objects("start", "end", "entity_group", "word")}, "spans"),
    "of the datasets library": (
        {"text": TEXT, "spans": {"start": [0, 19], "end": [9, 23], "label": ["PER", "LOC"]}},
        "spans",
    ),
}


def entities(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(record["text"][mark.start : mark.end], mark.label) for mark in record["marks"]]


def read(path: Path, task: Any = NER, **source: Any) -> tuple[list[dict[str, Any]], list[str]]:
    reader = Reader(task, Source(**source))
    return reader.file(path), reader.notes()


def write(path: Path, *rows: Any, lines: bool = True) -> Path:
    rows = tuple({**row, "id": n} if isinstance(row, dict) and "id" in row else row for n, row in enumerate(rows))
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) if lines else json.dumps(list(rows))
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_text_and_its_spans_and_says_what_it_was_read_as(tmp_path: Path, form: str) -> None:
    row, name = FORMS[form]
    for path in (
        write(tmp_path / "a.jsonl", row, row),
        write(tmp_path / "a.json", row, row, lines=False),
        write(tmp_path / "export", row, row),  # the content tells, not the suffix
    ):
        records, notes = read(path)
        assert [entities(record) for record in records] == [SPANS, SPANS]
        assert any(f"(--format {name}): 2 texts, 4 spans (PER 2, LOC 2)" in note for note in notes), notes
        assert [entities(record) for record in read(path, format=name)[0]] == [SPANS, SPANS]


@pytest.mark.parametrize("form", ["doccano", "label studio, short", "any", "of the datasets library"])
def test_the_same_forms_are_read_from_parquet_and_csv(tmp_path: Path, form: str) -> None:
    import csv

    import datasets

    row = dict(FORMS[form][0])
    cells = {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in row.items()}
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, sorted(cells))
        table.writeheader()
        table.writerow(cells)
    parquet = row if form != "doccano" else cells  # columns of Parquet hold one type
    datasets.Dataset.from_list([parquet]).to_parquet(str(tmp_path / "a.parquet"))
    for name in ("a.csv", "a.parquet"):
        assert [entities(record) for record in read(tmp_path / name)[0]] == [SPANS]


def test_predictions_of_ours_are_training_data_and_tokens_with_tags_are_no_spans(tmp_path: Path) -> None:
    found = [{"text": "Mira Holt", "label": "PER", "start": 0, "end": 9, "score": 0.98}]
    records, _ = read(write(tmp_path / "a.jsonl", {"text": TEXT, "entities": found}))
    assert entities(records[0]) == SPANS[:1]
    tagged = {"text": "Mira sings", "entities": [], "tokens": ["Mira", "sings"], "tags": ["B-PER", "O"]}
    records, notes = read(write(tmp_path / "a.jsonl", tagged))
    assert records[0]["tokens"] == ["Mira", "sings"]
    assert records[0]["tags"] == ["B-PER", "O"]
    assert not any("read as" in note for note in notes)


def test_prodigy_leaves_out_what_was_not_accepted_and_counts_it(tmp_path: Path) -> None:
    accepted = FORMS["prodigy"][0]
    rows = [accepted, {**accepted, "answer": "reject"}, {**accepted, "answer": "ignore"}]
    empty = {name: value for name, value in accepted.items() if name != "spans"}  # as where nothing was marked
    records, notes = read(write(tmp_path / "a.jsonl", *rows, empty))
    assert [entities(record) for record in records] == [SPANS, []]
    assert records[0]["words"][4:] == [(19, 23), (23, 24)]
    assert any(
        note.endswith("1 texts were rejected by the annotator and are left out: " + f"{tmp_path / 'a.jsonl'}:2")
        for note in notes
    )
    assert any("1 texts were ignored by the annotator and are left out" in note for note in notes)


def test_words_of_a_tool_that_are_not_in_the_text_are_not_used(tmp_path: Path) -> None:
    wrong = {**FORMS["prodigy"][0], "tokens": [{**token, "start": 0, "end": 0} for token in TOKENS]}
    records, _ = read(write(tmp_path / "a.jsonl", wrong))
    assert "words" not in records[0]


def test_label_studio_reads_the_annotation_that_most_share_or_the_ground_truth(tmp_path: Path) -> None:
    whole, part = {"id": 1, "result": RESULT}, {"id": 2, "result": RESULT[:1]}
    cancelled = {"id": 4, "result": [], "was_cancelled": True}
    rows = [
        studio(
            part, whole, {"id": 3, "result": [{**result, "id": "other"} for result in RESULT]}, part | {"id": 9}, whole
        ),
        studio(whole, part),
        studio({**part, "ground_truth": True}, whole, cancelled),
        studio(cancelled),
    ]
    records, notes = read(write(tmp_path / "a.json", *rows, lines=False))
    assert [entities(record) for record in records] == [SPANS, SPANS[:1], SPANS[:1]]
    assert any("2 texts have annotators who differ; what most of them say" in note for note in notes)
    assert any("1 texts have annotators who differ; the ground truth is read" in note for note in notes)
    assert any("2 annotations were cancelled or skipped" in note for note in notes)
    assert any("1 texts have no annotation for this task and are left out" in note for note in notes)


def test_relations_are_kept_for_a_task_that_takes_them(tmp_path: Path) -> None:
    class Related(NER):
        @classmethod
        def annotated(cls, text: Any) -> Any:
            spans = text.spans or ()
            return {"found": [(spans[r.head].stated, r.label, spans[r.tail].stated) for r in text.relations]}

    link = {"type": "relation", "from_id": "r1", "to_id": "r2", "direction": "right", "labels": ["lives_in"]}
    lost = {"type": "relation", "from_id": "r1", "to_id": "gone", "labels": []}
    doccano = FORMS["doccano with relations"][0] | {
        "relations": [{"id": 0, "from_id": 7, "to_id": 8, "type": "lives_in"}]
    }
    paths = {
        "a": write(tmp_path / "a.json", studio({"result": [*RESULT, link, lost]}), lines=False),
        "b": write(tmp_path / "b.jsonl", doccano),
    }
    for path in paths.values():
        records, _ = read(path, Related)
        assert records[0]["found"] == [("Mira Holt", "lives_in", "Lund")]
    assert any("1 relations name a span that is not there" in note for note in read(paths["a"], Related)[1])


def choice(*names: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "topic", "to_name": "text", "value": {"choices": list(names)}}


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        (studio({"result": [choice("move")]}), ["move"]),
        (studio({"result": [choice("move", "news")]}), ["move", "news"]),
        ({"id": 1, "text": TEXT, "topic": "move", **META}, ["move"]),
        ({"text": TEXT, "id": 1, "topic": {"choices": ["move", "news"]}, **META}, ["move", "news"]),
        ({"id": 1, "text": TEXT, "label": ["move"], "Comments": []}, ["move"]),
        ({"text": TEXT, "options": [{"id": "move", "text": "Move"}], "accept": ["move"], "answer": "accept"}, ["move"]),
        ({"text": TEXT, "label": "move", "answer": "accept"}, ["move"]),
        ({"text": TEXT, "cats": {"move": 1.0, "news": 0.0}}, ["move"]),
        ([TEXT, {"cats": {"move": True, "news": True}}], ["move", "news"]),
    ],
)  # fmt: skip
def test_labels_of_whole_texts_are_for_classification(tmp_path: Path, row: Any, labels: list[str]) -> None:
    path = write(tmp_path / "a.json", row, row, lines=False)
    records, _ = read(path, Classification)
    assert [(record["text"], record["choices"]) for record in records] == [(TEXT, labels)] * 2
    several = Classification(Classification.Options(multi_label=True)).clean(records, "train").records
    assert [record["label"] for record in several] == [labels] * 2
    task = Classification(Classification.Options())
    if len(labels) == 1:
        assert [record["label"] for record in task.clean(records, "train").records] == labels * 2
        assert task.labels(records[0]) == labels
    else:
        with pytest.raises(DataError, match=r"the text has 2 labels, .*--multi-label lets a text have several labels"):
            task.clean(records, "train")
    with pytest.raises(DataError, match="labels of whole texts only, which --task classification learns from"):
        read(path, NER)


def test_a_rejected_label_of_prodigy_is_the_other_class_where_one_was_asked_for(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "SPAM", "answer": "accept"}, {"text": "b", "label": "SPAM", "answer": "reject"}]
    records, notes = read(write(tmp_path / "a.jsonl", *rows), Classification)
    assert [record["choices"] for record in records] == [["SPAM"], ["not SPAM"]]
    assert any("1 texts were rejected for the only label and are read as 'not SPAM'" in note for note in notes)
    records, notes = read(
        write(tmp_path / "a.jsonl", *rows, {"text": "c", "label": "HAM", "answer": "accept"}), Classification
    )
    assert [record["choices"] for record in records] == [["SPAM"], ["HAM"]]
    assert any("1 texts were rejected for one of several labels and are left out" in note for note in notes)


def test_marked_answers_beside_a_question_are_for_qa(tmp_path: Path) -> None:
    answered = studio({"result": [region(1, 19, 23, "answer")]}, question="Where did Mira move?")
    unanswered = studio({"result": []}, question="Who is Otto?")
    records, _ = read(write(tmp_path / "a.json", answered, unanswered, lines=False), QA)
    cleaned = QA(QA.Options()).clean(records, "train").records
    assert [(record["question"], [answer["text"] for answer in record["answers"]]) for record in cleaned] == [
        ("Where did Mira move?", ["Lund"]),
        ("Who is Otto?", []),
    ]


def test_a_column_that_was_named_is_the_one_that_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"body": TEXT, "marks": TRIPLES, "id": 1})
    with pytest.raises(DataError, match=r"There are spans of characters.*--columns text=COLUMN"):
        read(path)
    records, _ = read(path, columns={"text": "body", "tags": "marks"})
    assert entities(records[0]) == SPANS
    path = write(tmp_path / "b.jsonl", {"body": TEXT, "spans": TRIPLES})
    assert entities(read(path, columns={"text": "body"})[0][0]) == SPANS


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ([0, 9, 4], "the label of a span is the number 4, and the file does not say what it stands for"),
        ([0, "x", "PER"], "the end of a span is the number of a character; found 'x'"),
        ("PER", r"a span is \[start, end, label\], or an object; found 'PER'"),
        ({"start": 3, "label": "PER"}, "a span has no end"),
        ([0, 9, None], "the label of a span is a name; found None"),
    ],
)
def test_what_is_no_span_is_refused_with_its_place(tmp_path: Path, span: Any, message: str) -> None:
    good = {"text": TEXT, "label": TRIPLES}
    path = write(tmp_path / "a.jsonl", good, {"text": TEXT, "label": [*TRIPLES, span]})
    with pytest.raises(DataError, match=rf"a\.jsonl:2: {message}"):
        read(path)


def test_sentences_of_one_document_are_held_out_together(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / f"{name}.txt").write_text(f"{name} lives in Lund.", encoding="utf-8")
        (tmp_path / f"{name}.ann").write_text("T1\tLOC 11 15\tLund\n", encoding="utf-8")
    splits, _ = load_splits(Source(data=str(tmp_path)), NER, 0, NER(NER.Options()))
    documents = [{record["document"] for record in splits[split]} for split in ("train", "validation")]
    assert not documents[0] & documents[1]
    assert set("abcdefgh") == documents[0] | documents[1]


def test_a_list_of_labels_beside_a_pair_keeps_the_second_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "a", "text_pair": "b", "label": ["same"]})
    assert read(path, Pair)[0][0] == {"where": f"{path}:1", "text": "a", "second": "b", "choices": ["same"]}


def test_a_text_among_lists_of_labels_is_refused_and_the_advice_works(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "a", "label": ["x", "y"]}, {"text": "b", "label": "x"})
    with pytest.raises(
        DataError, match=r"a\.jsonl:2: the label is 'x', where other rows have a list.*--columns label=label"
    ):
        read(path, Classification)
    records, _ = read(path, Classification, columns={"label": "label"})
    several = Classification(Classification.Options(multi_label=True)).clean(records, "train").records
    assert [record["label"] for record in several] == [["x", "y"], ["x"]]


def test_predictions_in_label_studio_are_read_where_nobody_has_annotated_any_text(tmp_path: Path) -> None:
    predicted = {"data": {"text": TEXT}, "predictions": [{"result": RESULT}]}
    records, notes = read(write(tmp_path / "a.jsonl", predicted, predicted))
    assert [entities(record) for record in records] == [SPANS, SPANS]
    assert any(
        "2 texts have predictions of a model and nobody has annotated any; they are read" in note for note in notes
    )
    records, _ = read(write(tmp_path / "b.jsonl", predicted, studio({"result": RESULT[:1]})))
    assert [entities(record) for record in records] == [SPANS[:1]]


@pytest.mark.parametrize("row", [{"label": []}, {"labels": []}, {"entities": [], "relations": []}])
def test_an_export_that_nobody_has_annotated_is_recognised(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps({"id": number, "text": TEXT, **row}) + "\n" for number in range(3)))
    for task in (NER, Classification):
        with pytest.raises(DataError, match="read as doccano's export, but none of its texts has been annotated"):
            load_splits(Source(data=str(path)), task)
    asked = Reader(NER, Source()).inputs(path, "jsonl")
    assert [item.value["text"] for item in asked] == [TEXT] * 3


def test_empty_lists_in_some_rows_do_not_make_a_table_an_export(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "labels": []}\n{"text": "b", "labels": [3, 5]}\n')
    records = Reader(Classification, Source(data=str(tmp_path / "a.jsonl"))).splits()["train"]
    assert [record["label"] for record in records] == [[], [3, 5]]


@pytest.mark.parametrize("printed", [json.dumps, repr])
@pytest.mark.parametrize("spans", [TRIPLES, OBJECTS])
def test_spans_in_a_cell_of_a_table_are_read_as_json_or_python_prints_them(
    tmp_path: Path, printed: Any, spans: list[Any]
) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text", "label"], [TEXT, printed(spans)], ["Rain.", "[]"]])
    raw = Reader(NER, Source(train=str(path))).splits()["train"]
    records = NER(NER.Options()).clean(raw, "train").records
    assert [record["tags"] for record in records] == [["B-PER", "I-PER", "O", "O", "B-LOC", "O"], ["O", "O"]]


@pytest.mark.parametrize("printed", [json.dumps, repr])
def test_names_of_classes_in_a_cell_are_those_of_any_table(tmp_path: Path, printed: Any) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text", "label"], ["one", printed(["a", "b"])], ["two", "a"]])
    reader = Reader(Classification, Source(train=str(path)))
    task = Classification(Classification.Options(multi_label=True))
    assert [r["label"] for r in task.clean(reader.splits()["train"], "train").records] == [["a", "b"], ["a"]]
    assert [file.format for file in reader.files] == ["csv"]
