"""``adapt train --tasks``: a file for each task, a table of them, and clear words for what cannot be."""

import json
from pathlib import Path

import pytest

from adaptdock.engine.training.run import Run
from adaptdock.hub.artefact.file import read_card, read_file


@pytest.fixture
def tasks(data: Path, tmp_path: Path) -> Path:
    """Two tasks on the same sentences: their entities, and which of two words the texts begin with."""
    (tmp_path / "topics.csv").write_text("text,label\n" + "it rains,rain\nshe sings,song\n" * 8)
    (tmp_path / "tasks.yaml").write_text(
        f"names:\n  task: ner\n  data: {data}\nspam:\n  train: topics.csv\n  columns: {{text: text}}\n  weight: 2\n"
    )
    return tmp_path / "tasks.yaml"


@pytest.fixture
def together(adapt, tasks, model_folder):
    def run(*arguments):
        given = ["--backbone", model_folder, "--epochs", 1, "--precision", "fp32"]
        return adapt("train", "--tasks", tasks, *given, *arguments)

    return run


@pytest.mark.parametrize("sharing", ["adapter", "passes"])
def test_each_task_gets_a_file_a_row_and_a_folder_with_its_curves(together, adapt, tmp_path, sharing):
    ran = together("--sharing", sharing, "--output", "out", "--run-dir", "run", "--rank", 3, "--hold-out", "always")
    assert ran.status == 0, ran.err
    for words in ("names", "spam", "accuracy", "out/names.safetensors", "best epoch"):
        assert words in ran.out
    assert "validation names f1" in ran.err
    assert "spam accuracy" in (tmp_path / "run/train.log").read_text()
    cards = [read_card(tmp_path / f"out/{name}.safetensors") for name in ("names", "spam")]
    assert [card.methods[0].options["rank"] for card in cards] == [3, 3]
    assert cards[0].training["together"]["sharing"] == sharing
    for name in ("names", "spam"):
        assert json.loads((tmp_path / f"run/{name}/metrics.json").read_text())["verdict"]
        assert (tmp_path / f"run/{name}/curves.png").exists()
    assert adapt("predict", "out/names.safetensors", "ada").status == 0
    assert adapt("predict", "out/spam.safetensors", "ada").status == 0


def test_untrained_adapters_are_told_in_the_first_lines_and_by_the_status(together):
    ran = together("--learning-rate", 1e-12)
    assert ran.status == 1, ran.err
    first, second = ran.out.splitlines()[:2]
    assert first.startswith("names: This adapter is untrained")
    assert second.startswith("spam: This adapter is untrained")
    again = together("--learning-rate", 1e-12, "--overwrite", "--allow-untrained")
    assert again.status == 0, again.err


def test_json_tells_each_task_to_a_program(together):
    found = json.loads(together("--json").out)
    assert [(row["name"], row["metric"], row["output"]) for row in found["tasks"]] == [
        ("names", "f1", "names.safetensors"),
        ("spam", "accuracy", "spam.safetensors"),
    ]


def test_a_dry_run_shows_how_often_each_task_comes_up_and_writes_nothing(together, tmp_path):
    before = sorted(tmp_path.iterdir())
    ran = together("--dry-run", "--sampling", "uniform")
    assert ran.status == 0, ran.err
    assert "drawn in an epoch" in ran.out
    found = json.loads(together("--dry-run", "--json", "--sampling", "uniform").out)
    assert found["units_in_an_epoch"] == {"names": 10, "spam": 21}
    assert sorted(tmp_path.iterdir()) == before


def test_a_verbose_dry_run_shows_the_settings_that_the_tasks_share(together):
    ran = together("--dry-run", "--verbose")
    assert ran.status == 0, ran.err
    assert all(f"\n{name}  " in ran.out for name in ("weight decay", "optimizer"))
    assert "optimizer" not in together("--dry-run").out


def test_the_flags_of_the_method_and_of_sharing_are_in_the_help(together):
    shown = together("--method", "bottleneck", "--help").out
    assert all(words in shown for words in ("--sharing", "--temperature", "--reduction-factor", "Several tasks:"))
    assert "--threshold" not in shown


def test_flags_may_come_from_a_configuration_with_the_tasks(adapt, tasks, model_folder, tmp_path):
    (tmp_path / "all.yaml").write_text(
        f"tasks: {tasks}\nbackbone: {model_folder}\nepochs: 1\nprecision: fp32\nsampling: uniform\n"
    )
    ran = adapt("train", "--config", "all.yaml")
    assert ran.status == 0, ran.err
    assert read_card(tmp_path / "names.safetensors").training["together"]["sampling"] == "uniform"
    (tmp_path / "wrong.yaml").write_text(f"tasks: {tasks}\nsamplin: uniform\n")
    adapt("train", "--config", "wrong.yaml").failed(2, "samplin", "sampling")


def test_files_that_are_there_are_not_replaced_unless_asked(together, tmp_path):
    (tmp_path / "spam.safetensors").write_text("mine")
    together().failed(2, "spam.safetensors exists already")
    assert (tmp_path / "spam.safetensors").read_text() == "mine"
    assert together("--overwrite").status == 0


def test_an_interrupted_run_is_resumed_and_a_finished_one_refused(together, adapt, tmp_path, monkeypatch):
    def interrupted(progress):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        original = Run.__call__
        patch.setattr(Run, "__call__", lambda run, watch, resume: original(run, interrupted, resume))
        ran = together("--run-dir", "run")
    assert ran.status == 130
    assert "--resume run" in ran.err
    assert read_file(tmp_path / "names.safetensors").card.training["ending"] == "interrupted"
    assert adapt("train", "--resume", "run", "--overwrite").status == 0
    assert read_card(tmp_path / "names.safetensors").training["ending"] == "complete"
    adapt("train", "--resume", "run").failed(2, "came to its end")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: {task: ner}\n", "name two or more"),
        ("names: ner\nspam: {}\n", "names has to be a table"),
        ("names: {task: nerr}\nspam: {}\n", "nerr"),
        ("ner: {trian: a.conll}\nspam: {}\n", "did you mean train"),
        ("ner: {weight: 0}\nspam: {}\n", "weight"),
        ("ner: {data: a, train: b}\nspam: {}\n", "give the one or the others"),
        ("ner: {test: b}\nspam: {}\n", "no train"),
        ("ner: {options: {scheme: odd}}\nspam: {}\n", "scheme"),
        ("a/b: {task: ner}\nspam: {}\n", "a/b"),
    ],
)
def test_a_file_of_tasks_that_cannot_be_is_refused(adapt, tmp_path, text, words):
    (tmp_path / "tasks.yaml").write_text(text)
    adapt("train", "--tasks", "tasks.yaml").failed(2, words)
