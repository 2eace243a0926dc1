"""``adapt train --tasks``: a file for each task, a table of them, and clear words for what cannot be."""

import json
from pathlib import Path

import pytest
import torch

from adaptdock.engine.training.loop.run import Run
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


DIFFERENT = """
slow: {task: ner, data: DATA, learning-rate: 1e-4, seed: 7}
fast: {task: ner, data: DATA, method: bottleneck, method_options: {reduction_factor: 4}}
short: {task: ner, data: DATA, method: prefix, method-options: {length: 2}, epochs: 2, patience: 0}
"""


@pytest.fixture
def different(adapt, data, model_folder, tmp_path):
    """Three tasks on the same data with other methods and training options."""
    (tmp_path / "different.yaml").write_text(DIFFERENT.replace("DATA", str(data)))

    def run(*arguments):
        given = ["--tasks", "different.yaml", "--backbone", model_folder, "--precision", "fp32", "--sharing", "passes"]
        return adapt("train", *given, "--output", "out", *arguments)

    return run


def test_entries_give_their_own_method_and_options_over_those_of_the_command_line(different, train):
    shown = json.loads(different("--rank", 3, "--scheduler", "cosine", "--dry-run", "--json").out)["tasks"]
    assert [shown[name]["methods"] for name in shown] == [["lora"], ["bottleneck"], ["prefix"]]
    assert [shown[name]["options"]["scheduler"] for name in shown] == ["cosine"] * 3
    assert [shown[name]["options"]["seed"] for name in shown] == [7, 0, 0]
    assert shown["short"]["options"]["epochs"] == 2
    for name, flags in (
        ("slow", ["--rank", 3, "--learning-rate", "1e-4", "--seed", 7, "--epochs", 6]),
        ("fast", ["--method", "bottleneck", "--reduction-factor", 4, "--epochs", 6]),
    ):
        alone = json.loads(train("--scheduler", "cosine", *flags, "--dry-run", "--json").out)
        epochs = {"epochs": 0, "min_steps": 0, "target_steps": 0}
        assert {**shown[name]["options"], **epochs} == {**alone["options"], **epochs}
        assert shown[name]["trained_parameters"] == alone["trained_parameters"]
    table = different("--dry-run").out.splitlines()
    assert any(line.split() == ["seed", "7", "0", "0"] for line in table)


@pytest.mark.slow
def test_an_entry_gets_the_file_that_adapt_train_writes_with_its_settings(different, train, tmp_path):
    ran = different("--store", "float32", "--epochs", 2, "--run-dir", "run", "--allow-untrained")
    assert ran.status == 0, ran.err
    flags = ["--method", "bottleneck", "--reduction-factor", 4, "--store", "float32", "--epochs", 2]
    assert train(*flags, "--allow-untrained", "-o", "alone.safetensors").status == 0
    member, alone = read_file(tmp_path / "out/fast.safetensors"), read_file(tmp_path / "alone.safetensors")
    assert member.tensors.keys() == alone.tensors.keys()
    for name, tensor in member.tensors.items():
        torch.testing.assert_close(tensor, alone.tensors[name], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_few_labels_of_an_entry_are_all_trained_on_and_measured_by_folds(together, tmp_path):
    ran = together("--sharing", "passes", "--allow-untrained")
    assert ran.status == 0, ran.err
    assert "spam: few labels: all 16 records are trained on" in ran.err
    assert "spam, fold 4 of 4: epoch" in ran.err
    card = read_card(tmp_path / "spam.safetensors")
    assert card.training["folds"]["count"] == 4
    assert "validation" not in card.metrics
    assert "validation" in read_card(tmp_path / "names.safetensors").metrics


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


def test_a_run_with_the_earlier_form_of_its_settings_is_resumed(together, adapt, tmp_path, monkeypatch):
    def interrupted(progress):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        original = Run.__call__
        patch.setattr(Run, "__call__", lambda run, watch, resume: original(run, interrupted, resume))
        assert together("--run-dir", "run").status == 130
    config = tmp_path / "run/config.json"
    content = json.loads(config.read_text())
    entries = content["tasks"]
    common = {key: entries["names"][key] for key in ("method", "training", "method_options")}
    tables = {
        name: {**entry["source"], "task": entry["task"], "options": entry["task_options"], "weight": entry["weight"]}
        for name, entry in entries.items()
    }
    config.write_text(json.dumps({**content, **common, "tasks": tables}))
    ran = adapt("train", "--resume", "run", "--overwrite")
    assert ran.status == 0, ran.err
    assert read_card(tmp_path / "spam.safetensors").training["ending"] == "complete"


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
        ("ner: {precision: fp32}\nspam: {}\n", "precision cannot differ between tasks: the backbone is loaded once"),
        ("ner: {learning_rate: fast}\nspam: {}\n", "ner: training: learning_rate"),
        ("ner: {method: lroa}\nspam: {}\n", "ner: unknown method 'lroa': did you mean lora"),
        ("ner: {method_options: {rnk: 3}}\nspam: {}\n", "rnk is no option of it"),
        ("ner: {}\nspam: {method: prefix}\n", "'ner' and 'spam' share one adapter but differ in method:"),
        ("ner: {seed: 3}\nspam: {}\n", "differ in seed: give the same to all tasks"),
    ],
)
def test_a_file_of_tasks_that_cannot_be_is_refused(adapt, tmp_path, text, words):
    (tmp_path / "tasks.yaml").write_text(text)
    adapt("train", "--tasks", "tasks.yaml").failed(2, words)


def test_the_entries_of_the_documented_example_differ_as_the_page_says(adapt, model_folder, tmp_path):
    page = (Path(__file__).parents[3] / "docs/commands.md").read_text()
    section = page.partition("#### Tasks with settings of their own")[2]
    (tmp_path / "different.yaml").write_text(section.partition("```yaml\n")[2].partition("```")[0])
    command = next(line for line in section.splitlines() if line.startswith("adapt ") and line.endswith("--dry-run"))
    ran = adapt(*command.split()[1:], "--backbone", model_folder, "--json")
    assert ran.status == 0, ran.err
    plans = json.loads(ran.out)["tasks"]
    assert [(plan["task"], *plan["methods"]) for plan in plans.values()] == [
        ("ner", "lora"),
        ("ner", "bottleneck"),
        ("sentiment", "prefix"),
    ]
    assert (plans["slow"]["options"]["learning_rate"], plans["slow"]["options"]["seed"]) == (1e-4, 7)
    assert plans["mood"]["options"]["epochs"] == 2
