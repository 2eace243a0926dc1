import json
import shutil
from pathlib import Path

import pytest


def measured(ran):
    assert ran.status == 0, ran.err
    return json.loads(ran.out)


def test_the_test_split_of_a_folder_is_measured_unless_another_is_named(adapt, adapter, data):
    found = measured(adapt("eval", adapter, "--data", data, "--json"))
    assert found["split"] == "test"
    assert found["records"] == 4
    assert set(found["metrics"]) == {"f1", "precision", "recall", "by_type"}
    assert measured(adapt("eval", adapter, "--data", data, "--split", "train", "--json"))["records"] == 16


def test_intervals_lie_around_the_metric(adapt, adapter, data):
    found = measured(adapt("eval", adapter, "--data", data, "--split", "train", "--bootstrap", 20, "--json"))
    low, high = found["intervals"]["recall"]
    assert low <= found["metrics"]["recall"] <= high
    shown = adapt("eval", adapter, "--data", data, "--split", "train", "--bootstrap", 20)
    assert f"recall: {low:g} to {high:g} (95 %, 20 draws)" in shown.out


def test_one_file_is_measured_whole(adapt, adapter, data):
    by_folder = measured(adapt("eval", adapter, "--data", data, "--json"))
    for option in ("--test", "--data"):
        by_file = measured(adapt("eval", adapter, option, data / "test.conll", "--json"))
        assert by_file["metrics"] == by_folder["metrics"]
        assert by_file["records"] == 4


def test_the_table_has_each_type(adapt, adapter, data):
    ran = adapt("eval", adapter, "--data", data)
    assert ran.status == 0
    for word in ("precision", "recall", "f1", "LOC", "PER", "support"):
        assert word in ran.out


def test_what_was_held_out_in_training_is_measured_as_validation_split(train, adapt, conll, tmp_path):
    conll(tmp_path / "all.conll", 10)
    assert train("--train", "all.conll", "--seed", 5, "--hold-out", "always", "-o", "a.safetensors").status == 0
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "all.conll", tmp_path / "folder" / "train.conll")
    found = measured(adapt("eval", "a.safetensors", "--data", "folder", "--split", "validation", "--json"))
    assert found["records"] == 10  # one of four sentences that are there ten times each
    card = json.loads(adapt("inspect", "a.safetensors", "--json").out)["card"]
    assert found["metrics"] == card["metrics"]["validation"]


def test_a_split_that_is_not_there_is_refused(adapt, adapter, tmp_path, conll):
    (tmp_path / "folder").mkdir()
    conll(tmp_path / "folder" / "train.conll", 5)
    adapt("eval", adapter, "--data", "folder").failed(2, "no test split", "train")
    adapt("eval", adapter, "--data", "folder", "--split", "tset").failed(
        2, "unknown split 'tset'", "did you mean test?"
    )
    adapt("eval", adapter, "--data", "folder", "--test", "x").failed(2, "--data and --test")


def test_labels_that_the_adapter_does_not_know_are_named_and_count_as_missed(adapt, adapter, tmp_path):
    (tmp_path / "old.conll").write_text("ada\tB-PER\nsaw\tO\noslo\tB-LOC\n")
    (tmp_path / "new.conll").write_text("ada\tB-PER\nsaw\tO\noslo\tB-LOC\n\nacme\tB-ORG\n\nzeta\tB-ORG\n")
    ran = adapt("eval", adapter, "--test", "new.conll", "--json")
    assert "test: labels that the adapter does not know count as missed: 'ORG' (2)" in ran.err
    metrics = measured(ran)["metrics"]
    assert metrics["by_type"]["ORG"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 2}
    answers = adapt("predict", adapter, "--json", "ada saw oslo", "acme", "zeta").out.splitlines()
    found = sum(len(json.loads(answer)["entities"]) for answer in answers)
    expected = json.loads(answers[0])["entities"]
    right = sum((part["text"], part["label"]) in {("ada", "PER"), ("oslo", "LOC")} for part in expected)
    assert metrics["recall"] == round(100 * right / 4, 2)
    assert metrics["precision"] == (round(100 * right / found, 2) if found else 0.0)
    assert "does not know" not in adapt("eval", adapter, "--test", "old.conll", "--json").err


@pytest.mark.parametrize("name", ["none.conll", "none.jsonl"])
def test_a_missing_file_is_named(adapt, adapter, name):
    adapt("eval", adapter, "--test", name).failed(2, name, "no such file")


def test_the_report_is_a_page_with_the_same_metrics_and_is_not_replaced_unasked(adapt, adapter, data, tmp_path):
    ran = adapt("eval", adapter, "--data", data, "--report", "report.html")
    assert ran.status == 0, ran.err
    assert "report: report.html" in ran.out
    f1 = measured(adapt("eval", adapter, "--data", data, "--json"))["metrics"]["f1"]
    page = (tmp_path / "report.html").read_text()
    assert f"f1 {f1:g}\n" in page
    assert "Measured on 4 records" in page
    adapt("eval", adapter, "--data", data, "--report", "report.html").failed(2, "exists already", "--overwrite")
    again = measured(adapt("eval", adapter, "--data", data, "--report", "report.html", "--overwrite", "--json"))
    assert again["report"] == "report.html"


def test_a_report_without_a_place_is_refused_before_the_work(adapt, adapter, data, tmp_path):
    adapt("eval", adapter, "--data", data, "--report", "none/report.html").failed(2, "none does not exist")
    adapt("eval", adapter, "--data", data, "--report", str(tmp_path)).failed(2, "directory")
    adapt("eval", adapter, "--data", data, "--overwrite").failed(2, "--report")


def test_a_report_knows_unseen_words_where_the_data_is_that_of_training(train, adapt, data):
    assert train("--data", data, "-o", "a.safetensors").status == 0
    assert adapt("eval", "a.safetensors", "--data", data, "--split", "train", "--report", "r.html").status == 0
    assert "training the training records with the label" in Path("r.html").read_text()
    assert adapt("eval", "a.safetensors", "--test", data / "test.conll", "--report", "s.html").status == 0
    assert "training the training records with the label" not in Path("s.html").read_text()


def test_an_adapter_of_own_data_is_not_measured_on_the_sample_data(train, adapt, conll, tmp_path):
    conll(tmp_path / "all.conll", 10)
    assert train("--train", "all.conll", "--hold-out", "always", "-o", "a.safetensors").status == 0
    adapt("eval", "a.safetensors").failed(2, "was trained on all.conll", "--data or --test")
    adapt("compare", "a.safetensors", "a.safetensors").failed(2, "was trained on all.conll", "--data or --test")
