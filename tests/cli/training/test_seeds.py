"""``adapt train --seeds``: a table of the metrics by seed, one file, and clear words for what cannot be."""

import json

import pytest

from adaptdock.engine.training.loop.trainer import Watch
from adaptdock.hub.artefact.file import read_card


def test_seeds_print_a_table_with_mean_and_interval_and_save_one_adapter(train, tmp_path):
    ran = train("--seeds", 2, "--seed", 3, "--run-dir", "run", "--output", "a.safetensors", "--allow-untrained")
    assert ran.status == 0, ran.err
    seeds = read_card(tmp_path / "a.safetensors").training["seeds"]
    rows = {line.split("  ")[0]: line for line in ran.out.splitlines()}
    assert f"{seeds['saved']} (saved)" in rows
    assert f"{seeds['test']['f1']['mean']:.2f}" in rows["mean"]
    assert f"{seeds['test']['f1']['low']:.2f} to {seeds['test']['f1']['high']:.2f}" in rows["95 %"]
    assert seeds["verdict"] in ran.out
    assert sorted(path.name for path in (tmp_path / "run").glob("seed-*")) == ["seed-3", "seed-4"]
    document = json.loads(train("--seeds", 2, "--output", "b.safetensors", "--allow-untrained", "--json").out)
    assert document["seeds"]["seeds"] == [0, 1]


def test_an_interrupted_run_of_seeds_is_resumed(train, adapt, tmp_path, monkeypatch):
    def interrupt(self, *_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_log", interrupt)
        ran = train("--seeds", 2, "--run-dir", "run", "--output", "a.safetensors")
    assert ran.status == 130
    again = adapt("train", "--resume", "run", "--allow-untrained")
    assert again.status == 0, again.err
    assert read_card(tmp_path / "a.safetensors").training["seeds"]["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--folds", 3), "--seeds and --folds each repeat the training: give one of them"),
        (("--curve", "50,100"), "--seeds and --curve each repeat the training: give one of them"),
        (("--unlabelled", "more.txt"), "--seeds and --unlabelled each repeat the training: give one of them"),
    ],
)
def test_another_repetition_beside_seeds_is_refused(train, flags, words, tmp_path):
    train("--seeds", 2, *flags).failed(2, words)
    train("--seeds", 1).failed(2, "greater than or equal to 2")


def test_a_dry_run_says_how_many_seeds(train):
    assert "2, from 5 upwards" in train("--seeds", 2, "--seed", 5, "--dry-run").out
    assert json.loads(train("--seeds", 2, "--dry-run", "--json").out)["seeds"] == 2


@pytest.mark.parametrize("flag", ["--seeds", "--curve", "--folds"])
def test_a_sweep_has_no_flag_that_it_would_ignore(adapt, flag):
    adapt("sweep", "--task", "ner", "--search", "rank=2,4", flag, 3).failed(2, "no such option")
