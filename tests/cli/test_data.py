"""``adapt data``, and exports of annotation tools on the command line: what is read is shown, problems are listed."""

import json
from pathlib import Path
from typing import Any

import pytest

TRIPLES = [[0, 3, "PER"], [13, 17, "LOC"]]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def export(path: Path, number: int = 12) -> Path:
    return write(path, *({"id": n, "text": f"Ada lives in Rome {n}", "label": TRIPLES} for n in range(number)))


def test_an_export_is_shown_as_the_task_reads_it(adapt: Any, tmp_path: Path) -> None:
    path = export(tmp_path / "a.txt")
    ran = adapt("data", path, "--task", "ner", "--records", 1)
    assert ran.status == 0
    assert f"{path}: doccano's export (doccano)" in ran.out
    assert f"{path}:1: [Ada|PER] lives in [Rome|LOC] 0\n" in ran.out
    assert f"{path}:2:" not in ran.out
    assert "entities: LOC 12, PER 12" in ran.out
    assert "No problems were found." in ran.out
    document = json.loads(adapt("data", path, "--task", "ner", "--json").out)
    assert document["splits"] == {"train": 12}
    assert document["problems"] == []
    assert [record["record"] for record in document["first"]["train"]][1] == "[Ada|PER] lives in [Rome|LOC] 1"


def test_columns_are_shown_and_problems_are_listed_with_their_places(adapt: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = (
        ["good,positive"] * 10 + ["bad,negative"] * 10 + ["fine,postive", "bad,positive", "odd,item 1", "odder,item 2"]
    )
    (tmp_path / "data" / "train.csv").write_text("Text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "data" / "test.csv").write_text("Text,label\nfine,positive\nnew,negative\n")
    ran = adapt("data", tmp_path / "data", "--task", "classification")
    train = tmp_path / "data" / "train.csv"
    assert ran.status == 0
    assert f"{train}: csv: text from 'Text', label from 'label'" in ran.out
    assert "19 of 24 records repeat the text of another" in ran.out
    assert f"train: 1 texts have more than one label: {train}:12 and {train}:13 and 9 more" in ran.out
    assert f"1 labels may be misspelt: 'postive' for 'positive' at {train}:22" in ran.out
    assert f"train: 3 labels have one example only: 'postive' at {train}:22, 'item 1' at {train}:24" in ran.out
    assert f"1 texts of test are in train too: {train}:22 and {tmp_path / 'data' / 'test.csv'}:2" in ran.out
    assert adapt("data", tmp_path / "data", "--task", "classification", "--strict").status == 1


def test_what_the_task_refuses_is_a_problem_and_the_advice_is_followed(adapt: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,labels\na,\"['red']\"\nb,\"['red', 'blue']\"\nc,\"['blue']\"\n")
    ran = adapt("data", path, "--task", "classification")
    assert ran.status == 0
    assert "adapt train would stop here" in ran.out
    assert "--multi-label" in ran.out
    ran = adapt("data", path, "--task", "classification", "--multi-label", "--strict")
    assert ran.status == 0
    assert "[blue, red] b" in ran.out
    adapt("data", tmp_path / "no.csv", "--task", "ner").failed(2, "no.csv")
    adapt("data", path).failed(2, "--task is missing")


def test_lengths_are_compared_with_the_window_of_a_backbone(adapt: Any, tmp_path: Path, model_folder: Path) -> None:
    rows = [{"text": "ada lives in rome " * repeats, "label": label} for repeats, label in ((30, "x"), (1, "y"))]
    path = write(tmp_path / "a.jsonl", *rows)
    ran = adapt("data", path, "--task", "classification", "--backbone", model_folder, "--max-length", 32)
    assert ran.status == 0
    assert "limit 32" in ran.out
    assert "train, longer than a window  1" in ran.out


def test_an_export_is_trained_on_measured_and_predicted(adapt: Any, tmp_path: Path, model_folder: Path) -> None:
    path = export(tmp_path / "export.jsonl")
    settings = ("--task", "ner", "--backbone", model_folder, "--epochs", 1, "--precision", "fp32")
    plan = adapt("train", *settings, "--train", path, "--dry-run")
    assert plan.status == 0, plan
    assert "read as doccano's export (--format doccano): 12 texts, 24 spans" in plan.err
    assert f"{path}:1: [Ada|PER] lives in [Rome|LOC] 0" in plan.out
    ran = adapt("train", *settings, "--train", path, "-o", tmp_path / "a.safetensors")
    assert ran.status == 0, ran
    (tmp_path / "brat").mkdir()
    (tmp_path / "brat" / "a.txt").write_text("Ada lives in Rome")
    (tmp_path / "brat" / "a.ann").write_text("T1\tPER 0 3\tAda\nT2\tLOC 13 17\tRome\n")
    task = {"data": {"text": "Ada lives in Rome"}, "annotations": []}
    (tmp_path / "studio.json").write_text(json.dumps([task]))
    prodigy = write(tmp_path / "p.jsonl", {"text": "Ada", "tokens": [{"text": "Ada", "start": 0, "end": 3, "id": 0}]})
    for data in (path, tmp_path / "brat"):
        measured = adapt("eval", tmp_path / "a.safetensors", "--data", data)
        assert measured.status == 0, measured
        assert "f1" in measured.out
    for data, number in ((path, 12), (tmp_path / "brat", 1), (tmp_path / "studio.json", 1), (prodigy, 1)):
        answers = adapt("predict", tmp_path / "a.safetensors", "--input", data, "--json")
        assert answers.status == 0, answers
        assert len(answers.out.splitlines()) == number
        assert json.loads(answers.out.splitlines()[0])["text"].startswith("Ada")


@pytest.mark.parametrize(
    "name", ["doccano", "prodigy", "spans", "spacy", "label-studio", "brat", "webanno", "cas", "docbin"]
)
def test_a_format_that_the_file_does_not_have_is_refused_in_one_paragraph(
    adapt: Any, tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / "a.jsonl", {"tokens": ["Ada"], "tags": ["B-PER"]})
    ran = adapt("data", path, "--task", "ner", "--format", name)
    ran.failed(2, "a.jsonl")


def test_a_text_alone_with_its_label_is_shown_for_embedding(adapt: Any, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("text,label\na b,x\nc d,x\ne f,y\n")
    ran = adapt("data", path, "--task", "embedding")
    assert ran.status == 0, ran.err
    assert "candidates only: " in ran.out


def test_a_check_by_the_backbone_lists_label_errors_near_duplicates_and_scripts(
    adapt: Any, tmp_path: Path, model_folder: Path
) -> None:
    names, towns = ("ada", "bob", "eva"), ("rome", "oslo", "paris", "lind")
    rows = [{"text": f"{name} lives in {town}", "label": name} for name in names for town in towns]
    rows[5]["label"] = "ada"  # of bob
    rows.append({"text": "Привет Привет Привет Привет", "label": "eva"})
    path = write(tmp_path / "a.jsonl", *rows)
    arguments = ("data", path, "--task", "classification", "--backbone", model_folder, "--check")
    ran = adapt(*arguments)
    assert ran.status == 0, ran.err
    assert " labels may be wrong (confident learning)" in ran.out
    assert f"{path}:6: 'bob lives in oslo' is ada 0." in ran.out
    assert ", not bob 0." in ran.out
    assert "words in LATIN" in ran.out
    assert "takes words in CYRILLIC apart: 4 words" in ran.out
    document = json.loads(adapt(*arguments, "--json").out)
    assert document["label errors"][0]["place"] == f"{path}:6"
    assert adapt(*arguments, "--strict").status == 1
    assert "label errors" not in json.loads(adapt(*arguments[:-1], "--json").out)
