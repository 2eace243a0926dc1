"""``adapt train`` with altered copies of the data, and with texts that have no labels."""

import json
from io import StringIO

import pytest

from adaptdock.cli.training.progress import Watch
from adaptdock.engine.training.loop.progress import Progress
from adaptdock.hub.artefact.file import read_card


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts.txt").write_text("ada lives in oslo\nnothing at all\n")
    return "--unlabelled", "texts.txt"


def test_a_dry_run_tells_how_many_records_augmentations_add(train):
    found = json.loads(train("--augment", "swap:0.5,delete", "--augment-copies", 2, "--dry-run", "--json").out)
    assert found["added"]["delete"] > 0
    assert found["data"]["train"]["sentences"] == 16 + sum(found["added"].values())
    assert found["data"]["validation"]["sentences"] == 4
    ran = train("--augment", "swap:0.5,delete", "--dry-run")
    assert "augmentation delete:0.1" in ran.err
    assert "added by delete" in ran.out


def test_paths_of_more_data_hold_in_any_folder_and_the_card_names_the_files_alone(train, texts, tmp_path):
    (tmp_path / "mine.txt").write_text("lives, dwells\n")
    ran = train("--augment", "synonyms", "--synonyms", "mine.txt", *texts, "--confidence", 0, "--run-dir", "run")
    assert ran.status == 0, ran.err
    training = json.loads((tmp_path / "run/config.json").read_text())["tasks"]["ner"]["training"]
    assert (training["synonyms"], training["unlabelled"]) == (str(tmp_path / "mine.txt"), str(tmp_path / "texts.txt"))
    options = read_card(tmp_path / "ner.safetensors").training["options"]
    assert (options["synonyms"], options["unlabelled"]) == ("mine.txt", "texts.txt")


def test_each_round_is_told_and_a_new_run_replaces_the_rounds_of_the_old_one(train, texts, tmp_path):
    places = "--run-dir", "run", "--overwrite"
    ran = train(*texts, "--confidence", 0, *places)
    assert ran.status == 0, ran.err
    told = [line for line in ran.out.splitlines() if line.startswith("round ")]
    assert "0 texts added; validation f1" in told[0]
    assert "2 texts added; 2 sentences; " in told[1]
    assert sum("(the best)" in line for line in told) == 1
    assert (tmp_path / "run/round-1/metrics.json").exists()
    found = json.loads(train(*texts, "--confidence", 1, *places, "--json").out)
    assert [one["added"] for one in found["self_training"]["rounds"]] == [0, 0]
    assert not (tmp_path / "run/round-1").exists()
    assert train(*places).status == 0
    assert not (tmp_path / "run/round-0").exists()


def test_what_cannot_work_is_told_in_one_paragraph(train, texts):
    train("--augment", "swop").failed(2, "unknown augmentation 'swop': did you mean swap")
    train("--augment", "swap:3").failed(2, "--augment swap:3: a rate is a share")
    train("--augment", "back_translate", "--back-translation", "a,b").failed(2, "nothing says which tag is whose")
    train("--unlabelled", "none.txt").failed(2, "none.txt: there is no such file (--unlabelled)")
    train("--confidence", "2", *texts).failed(2, "confidence")


def test_the_time_that_is_left_is_that_of_the_round(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 100.0, 104.0])
    monkeypatch.setattr("adaptdock.cli.training.progress.time.monotonic", lambda: next(clock))
    watch = Watch(StringIO(), None)
    for step in (1, 6, 1, 3):
        watch(Progress(step, 11, step / 11, loss=0.5))
    left = [line.partition("(")[2] for line in capsys.readouterr().err.splitlines()]
    assert left == ["10 s left)", "16 s left)"]
