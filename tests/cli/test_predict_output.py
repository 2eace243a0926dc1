"""``adapt predict --output``: answers in a file, complete or not at all, which trains an adapter."""

import json
from collections import Counter

import pytest

TEXTS = "ada lives in rome\nbob saw oslo\n"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("out.jsonl", ()),
        ("out.csv", ()),
        ("out.parquet", ()),
        ("out.conll", ()),
        ("out.jsonl", ("--output-format", "doccano")),
        ("out.json", ("--output-format", "label-studio")),
        ("out.jsonl", ("--output-format", "prodigy")),
    ],
)
def test_a_file_of_answers_is_what_adapt_data_reads(adapt, adapter, name, arguments):
    ran = adapt("predict", adapter, "--output", name, *arguments, stdin=TEXTS.encode())
    assert ran.status == 0, ran.err
    assert ran.out == ""
    assert f"2 answers written to {name}" in ran.err
    answers = adapt("predict", adapter, "--json", stdin=TEXTS.encode()).out.splitlines()
    predicted = Counter(entity["label"] for answer in answers for entity in json.loads(answer)["entities"])
    assert predicted  # else nothing would be shown
    shown = adapt("data", name, "--task", "ner", "--json")
    assert shown.status == 0, shown.err
    assert json.loads(shown.out)["labels"]["train"]["entities"] == predicted


def test_what_cannot_be_written_is_refused_before_the_backbone_is_loaded(adapt, adapter, tmp_path):
    (tmp_path / "there.csv").write_text("kept")
    adapt("predict", adapter, "a", "--output", "there.csv").failed(2, "there.csv exists already", "--overwrite")
    assert (tmp_path / "there.csv").read_text() == "kept"
    assert adapt("predict", adapter, "a", "--output", "there.csv", "--overwrite").status == 0
    assert (tmp_path / "there.csv").read_text().startswith("text,entities\n")
    adapt("predict", adapter, "a", "--output", "a.xyz").failed(2, "a.xyz does not name the format", "--output-format")
    adapt("predict", adapter, "a", "--output", "a.csv", "--json").failed(2, "--output-format jsonl")
    adapt("predict", adapter, "a", "--overwrite").failed(2, "--overwrite", "--output FILE")
    adapt("predict", "--url", "http://127.0.0.1:1", "a", "--output", "a.conll").failed(2, "needs the adapter's file")
    assert sorted(path.name for path in tmp_path.glob("a.*")) == []


def test_a_failure_leaves_no_file(adapt, adapter, tmp_path):
    adapt("predict", adapter, "--output", "out.jsonl", stdin=b'fine\n{"no": 1}\n').failed(2, "standard input:2")
    assert list(tmp_path.glob("*out.jsonl*")) == []
