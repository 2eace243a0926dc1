import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from builders import build_adapter

from adaptdock.cli.training.progress import Watch
from adaptdock.hub.artefact.file import read_card, read_file, write_file


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------ what it leaves


def test_a_run_leaves_the_adapter_and_a_folder_with_settings_metrics_log_and_curves(train, adapt, tmp_path):
    ran = train("-o", "out/places.safetensors", "--run-dir", "run", "--name", "places", "--rank", 3)
    assert ran.status == 0, ran.err
    assert files(tmp_path / "run") == [
        "best.safetensors",
        "config.json",
        "curves.png",
        "identity.json",
        "log.jsonl",
        "metrics.json",
        "report.html",
        "train.log",
    ]
    assert "Measured on 4 records" in (tmp_path / "run/report.html").read_text()
    card = read_card(tmp_path / "out/places.safetensors")
    assert card.name == "places"
    assert card.methods[0].options["rank"] == 3
    for words in (
        "validation",
        "test",
        "by type",
        "parameters",
        "bytes",
        "run/curves.png",
        "run/report.html",
        "out/places.safetensors",
    ):
        assert words in ran.out
    assert "validation f1" in ran.err
    assert "validation f1" in (tmp_path / "run/train.log").read_text()
    assert adapt("predict", "out/places.safetensors", "ada").status == 0


def test_the_adapter_is_named_after_the_task_and_the_folder_after_task_and_method(train, tmp_path):
    assert train("--method", "prefix", "--length", 2).status == 0
    assert read_card(tmp_path / "ner.safetensors").methods[0].options["length"] == 2
    assert [folder.name[:11] for folder in (tmp_path / "runs").iterdir()] == ["ner-prefix-"]


def test_a_combination_of_methods_is_trained_as_one_and_its_card_lists_them(train, adapt):
    assert train("--method", "mam", "--length", 2, "--reduction-factor", 8).status == 0
    card = read_card("ner.safetensors")
    assert [method.name for method in card.methods] == ["prefix", "bottleneck"]
    assert (card.methods[0].options["length"], card.methods[1].options["reduction_factor"]) == (2, 8)
    assert adapt("predict", "ner.safetensors", "ada").status == 0


@pytest.fixture
def members(backbone, tmp_path):
    """Two trained bottleneck adapters of different width."""
    for name, factor, seed in (("a", 4, 1), ("b", 10, 2)):
        options = {"placement": "pfeiffer", "reduction_factor": factor}
        write_file(
            tmp_path / f"{name}.safetensors", build_adapter(backbone, "bottleneck", options, name=name, seed=seed)
        )
    return "--method", "fusion", "--members", "a.safetensors,b.safetensors"


def test_a_fusion_is_trained_from_the_files_of_its_members_and_then_needs_none_of_them(train, adapt, members, tmp_path):
    shown = json.loads(train(*members, "--dry-run", "--json").out)
    assert shown["kept_parameters"] == 2 * ((8 + 3) * (32 + 1 + 32) + 2 * 32)
    assert shown["trained_parameters"] == 2 * 3 * 32 * 32 + shown["head_parameters"]
    ran = train(*members, "--attention-width", 4)
    assert ran.status == 0, ran.err
    assert "parameters that are not trained" in ran.out
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").unlink()
    assert list(read_card("ner.safetensors").methods[0].options["adopted"]) == ["a", "b"]
    assert adapt("predict", "ner.safetensors", "ada").status == 0


def test_a_fusion_without_members_or_with_one_that_is_missing_is_refused(train, adapt, members, tmp_path):
    train("--method", "fusion").failed(2, "two or more trained adapters", "--members a.safetensors,b.safetensors")
    (tmp_path / "b.safetensors").unlink()
    train(*members).failed(1, "b.safetensors", "there is no such file")
    shown = adapt("train", "--method", "fusion", "--help").out
    assert "--members" in shown
    assert "--adopted" not in shown


def test_json_tells_the_result_to_a_program(train):
    found = json.loads(train("--json").out)
    assert found["ending"] == "complete"
    assert found["output"] == "ner.safetensors"
    assert set(found["metrics"]) == {"validation", "test"}


def test_a_fault_of_a_task_in_the_report_does_not_lose_the_adapter(train, monkeypatch, tmp_path):
    def broken(*_):
        raise ValueError("no outcome")

    monkeypatch.setattr("adaptdock.engine.training.members.task_run.write_page", broken)
    ran = train("-o", "a.safetensors", "--run-dir", "run")
    assert ran.status == 0, ran.err
    assert "report.html could not be written: ValueError: no outcome." in ran.out
    assert read_card(tmp_path / "a.safetensors").metrics
    assert not (tmp_path / "run/report.html").exists()


def test_a_dry_run_shows_the_plan_and_writes_nothing(train, tmp_path):
    ran = train("--dry-run", "--rank", 3)
    assert ran.status == 0
    for words in ("parameters", "of the backbone", "LOC, PER", "16 sentences", "median", "layers.0.query"):
        assert words in ran.out
    found = json.loads(train("--dry-run", "--json", "--layers", "1", "--roles", "query,value").out)
    assert found["ports"] == ["layers.1.query", "layers.1.value"]
    assert files(tmp_path) == []


def shown_settings(out: str) -> dict[str, str]:
    lines = out.partition("\n\n")[0].splitlines()  # the first records follow
    return {name: value for name, _, value in (re.split(r"( {2,})", line, maxsplit=1) for line in lines)}


def test_a_dry_run_shows_what_differs_from_the_recipe_and_what_the_data_decide(train):
    plain = shown_settings(train("--dry-run").out)
    assert plain["task: labels"] == "LOC, PER"
    assert plain["other settings"] == "the recipe of ner for lora; --verbose shows them"
    changed = shown_settings(train("--dry-run", "--rank", 3, "--seed", 7, "--weight-decay", "0.02").out)
    assert changed["trained"] != plain["trained"]
    assert {name: changed[name] for name in changed.keys() - plain.keys()} == {
        "lora: rank": "3",
        "seed": "7",
        "weight decay": "0.02",
    }
    assert not {"lora: alpha", "optimizer", "task: scheme"} & changed.keys()


def test_a_verbose_dry_run_shows_every_setting(train):
    plan = json.loads(train("--dry-run", "--json").out)
    shown = shown_settings(train("--dry-run", "--verbose").out)
    names = {name.replace("_", " ") for name in plan["options"]}
    names |= {f"task: {name.replace('_', ' ')}" for name in plan["task_options"]}
    assert {*names, "lora: rank", "lora: alpha"} <= shown.keys()
    assert "other settings" not in shown


def test_verbose_without_a_dry_run_is_refused_with_the_place_of_the_settings(train, tmp_path):
    train("--verbose").failed(2, "--verbose", "--dry-run", "config.json")
    assert files(tmp_path) == []


def test_repaired_tags_are_told(train, tmp_path):
    (tmp_path / "train.conll").write_text("ada\tI-PER\nin\tO\nrome\tB-LOC\n\n" * 8)
    assert "1 tags repaired" in train("--train", "train.conll", "--dry-run").err.replace("8 tags", "1 tags")


# -------------------------------------------------------------------------------------------- help


def test_help_shows_the_options_of_the_chosen_method_and_task_in_sections_of_their_own(adapt):
    ran = adapt("train", "--task", "ner", "--method=bottleneck", "--help")
    assert ran.status == 0
    assert "Method bottleneck:" in ran.out
    assert "Task ner:" in ran.out
    assert "--reduction-factor" in ran.out
    assert "--rank" not in ran.out
    mixed = adapt("train", "--method", "mam", "--help").out
    assert "Method mam:" in mixed
    assert all(flag in mixed for flag in ("--length", "--reduction-factor", "--scale", "[default: 4.0]"))
    default = adapt("train", "--help").out
    assert "Method lora:" in default
    assert "--rank" in default


def test_every_training_option_has_a_help_text(adapt):
    from adaptdock.engine.training.planning.hyperparameters import TrainingOptions

    text = adapt("train", "--help").out
    for name, info in TrainingOptions.model_fields.items():
        if name != "method_options":
            assert info.description, name
            assert f"--{name.replace('_', '-')}" in text


def test_a_flag_that_two_would_have_is_named_after_its_owner():
    from pydantic import BaseModel

    from adaptdock.cli.common.flags import field_flags

    class Two(BaseModel):
        rank: int = 1
        seed: int = 0

    made = field_flags(Two, "method", "Method two", taken={"seed"})
    assert made.fields == {"rank": "rank", "method_seed": "seed"}
    assert made.given({"rank": "3", "method_seed": "4", "seed": "5"}) == {"rank": "3", "seed": "4"}


# ------------------------------------------------------------------------------------- configuration


def test_a_configuration_file_gives_flags_and_the_command_line_wins(adapt, model_folder, data, tmp_path):
    (tmp_path / "c.yaml").write_text(
        f"task: ner\nmethod: bottleneck\nreduction-factor: 4\nlearning_rate: 2e-3\nbackbone: {model_folder}\n"
        f"data: {data}\nlabels: [PER, LOC]\ngroup-by-length: false\ncolumns: {{tokens: 0}}\nname:\n"
    )
    found = json.loads(adapt("train", "--config", "c.yaml", "--epochs", 7, "--dry-run", "--json").out)
    assert found["methods"] == ["bottleneck"]
    assert found["options"]["learning_rate"] == 0.002
    assert found["options"]["epochs"] == 7
    assert found["options"]["group_by_length"] is False
    assert found["task_options"]["labels"] == ["PER", "LOC"]
    (tmp_path / "c.toml").write_text(f'task = "ner"\nrank = 3\nbackbone = "{model_folder}"\ndata = "{data}"\n')
    lora = json.loads(adapt("train", "--config=c.toml", "--dry-run", "--json").out)
    assert lora["methods"] == ["lora"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.yaml", "task: ner\nlearning-rte: 1", ("'learning_rte'", "did you mean learning_rate")),
        ("c.yaml", "task: ner\nmethod: prefix\nrank: 8", ("'rank'",)),
        ("c.yaml", "task: ner\nresume: runs/x", ("'resume'",)),
        ("c.yaml", "task: [", ("not YAML",)),
        ("c.yaml", "- task", ("list",)),
        ("c.yaml", "task: ner\nrank: {a: 1}", ("rank",)),
        ("c.toml", "task: ner", ("not TOML",)),
        ("c.ini", "", (".yaml",)),
        ("c.yaml", "task: ner\nepochs: many", ("epochs", "'many'")),
        ("c.yaml", "epochs: 2", ("--task is missing",)),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(adapt, tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    adapt("train", "--config", name).failed(2, *words)


def test_a_configuration_that_is_not_there_is_named(adapt, tmp_path):
    adapt("train", "--config", "none.yaml").failed(2, "none.yaml", "No such file")
    (tmp_path / "c.yaml").write_bytes(b"task: \xff")
    adapt("train", "--config", "c.yaml").failed(2, "not valid UTF-8")


# ----------------------------------------------------------------------------------------- bad input

BAD_OPTIONS = [
    (["--rank", 0], ["rank", "greater than 0", "'0'"]),
    (["--rank", -3], ["rank", "greater than 0", "'-3'"]),
    (["--rank", "eight"], ["rank", "'eight'"]),
    (["--alpha", "nan"], ["alpha"]),
    (["--learning-rate", "0"], ["learning_rate"]),
    (["--learning-rate", "inf"], ["learning_rate", "finite"]),
    (["--epochs", "0"], ["epochs"]),
    (["--batch-size", "-1"], ["batch_size"]),
    (["--store", "float12"], ["store", "float16"]),
    (["--task", "nre"], ["unknown task 'nre'", "ner"]),
    (["--method", "lroa"], ["unknown method 'lroa'", "did you mean lora"]),
    (["--roles", "querry"], ["unknown linear role 'querry'", "did you mean query"]),
    (["--layers", "7"], ["no layer [7]", "0 to 1"]),
    (["--layers", "first"], ["layers 'first'"]),
    (["--columns", "tags"], ["FIELD=COLUMN"]),
    (["--columns", "tags=9"], ["no column '9'"]),
    (["--format", "xml"], ["unknown format 'xml'"]),
    (["--test", "x.conll"], ["--data and --test"]),
    (["--precision", "fp16", "--device", "cpu"], ["fp16", "GPU"]),
    (["--precision", "bf16", "--dtype", "float32"], ["contradict"]),
    (["--name", "a+b"], ["'a+b'"]),
]


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS, ids=lambda part: " ".join(map(str, part)))
def test_an_option_that_cannot_be_is_refused_and_nothing_is_written(train, tmp_path, options, words):
    train(*options).failed(2, *words)
    assert files(tmp_path) == []
    assert not (tmp_path / "runs").exists()


BAD_DATA = {
    "missing": ("none.conll", None, ["none.conll", "no such file"]),
    "ragged": ("a.conll", b"ada\tB-PER\nin\tO\nrome\n", ["a.conll:3", "1 columns", "2"]),
    "one column": ("a.conll", b"ada\nin\n", ["a.conll:1", "one column"]),
    "no such tag": ("a.conll", b"ada\tB-PER\nx\tZ-PER\n", ["a.conll:1", "'Z-PER'"]),
    "not UTF-8": ("a.conll", b"ada\tB-PER\ncaf\xe9\tO\n", ["a.conll:2", "not valid UTF-8"]),
    "empty": ("a.conll", b"", ["the train split is empty"]),
    "blank": ("a.conll", b"\n\t\n\n", ["the train split is empty"]),
    "no entity": ("a.conll", b"a\tO\n\nb\tO\n\nc\tO\n", ["no entity"]),
    "one record": ("a.conll", b"a\tB-X\n", ["too few"]),
    "missing column": ("a.jsonl", b'{"tokens": ["a"], "lemma": ["a"]}\n', ["a.jsonl:1", "no column for tags", "lemma"]),
    "not JSON": ("a.jsonl", b'{"tokens": ["a"], "tags": ["O"]}\n{"tok\n', ["a.jsonl:2", "not JSON"]),
    "uneven": ("a.jsonl", b'{"tokens": ["a", "b"], "tags": ["O"]}\n', ["a.jsonl:1", "2 tokens but 1 tags"]),
    "ragged csv": ("a.csv", b"tokens,tags\na,O\na b,O O,x\n", ["a.csv:3", "3 columns"]),
    "not parquet": ("a.parquet", b"PAR0", ["a.parquet", "not a Parquet file"]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_data_that_cannot_be_used_is_refused_with_its_place_and_nothing_is_written(train, data, tmp_path, case):
    name, content, words = BAD_DATA[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = files(tmp_path)
    options = [] if case == "one record" else ["--validation", data / "validation.conll"]
    train("--train", name, *options).failed(2, *words)
    assert files(tmp_path) == before


def test_a_label_in_validation_that_training_lacks_is_refused(train, tmp_path, conll):
    conll(tmp_path / "train.conll")
    (tmp_path / "dev.conll").write_text("ada\tB-PER\n\nacme\tB-ORG\n")
    ran = train("--train", "train.conll", "--validation", "dev.conll")
    ran.failed(2, "dev.conll:3", "'ORG'", "LOC, PER")
    (tmp_path / "dev.conll").write_text("\n")
    train("--train", "train.conll", "--validation", "dev.conll").failed(2, "the validation split is empty")


def test_a_text_of_a_hundred_thousand_words_is_trained_on_in_windows(train, tmp_path):
    (tmp_path / "train.conll").write_text("a\tB-X\nb\tO\n" * 50_000)
    (tmp_path / "dev.conll").write_text("a\tB-X\nb\tO\n")
    ran = train("--train", "train.conll", "--validation", "dev.conll", "--dry-run", "--json")
    found = json.loads(ran.out)
    assert found["data"]["train"]["tokens"] == 100_000
    assert found["windows"] > 100_000 / 128


def test_without_a_task_the_tasks_are_named(adapt):
    adapt("train").failed(2, "--task is missing", "ner")


# ------------------------------------------------------------------------------------ where it goes


def test_an_output_that_exists_is_kept_unless_overwriting_was_asked_for(train, tmp_path):
    (tmp_path / "mine.safetensors").write_text("precious")
    train("-o", "mine.safetensors").failed(2, "mine.safetensors exists already", "--overwrite")
    assert (tmp_path / "mine.safetensors").read_text() == "precious"
    assert train("-o", "mine.safetensors", "--overwrite").status == 0
    assert read_card(tmp_path / "mine.safetensors").name == "ner"


def test_a_run_s_folder_is_replaced_only_when_overwriting_a_run(train, tmp_path):
    assert train("--run-dir", "run").status == 0
    train("--run-dir", "run", "-o", "b.safetensors").failed(2, "run is not empty", "--resume run")
    assert train("--run-dir", "run", "--overwrite").status == 0
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").write_text("cat")
    train("--run-dir", "photos", "--overwrite").failed(2, "photos is not empty")
    assert (tmp_path / "photos/cat.png").exists()


def test_an_output_that_cannot_be_written_is_refused_before_training(train, tmp_path, monkeypatch):
    train("-o", tmp_path).failed(2, "is a folder")
    (tmp_path / "file").write_text("")
    train("-o", "file/out.safetensors").failed(1, "nothing can be written there")
    train("--run-dir", "file").failed(2, "is a file")


def test_no_space_left_is_told_and_leaves_no_file(train, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    train("-o", "out.safetensors", "--run-dir", "run").failed(1, "could not be saved", "No space left")
    left = [name for name in files(tmp_path) if not name.startswith("run/checkpoints/")]
    assert left == ["run/config.json", "run/identity.json", "run/train.log"]


def test_a_loss_that_is_no_number_ends_training_and_the_last_good_weights_are_kept(train, tmp_path):
    ran = train("--learning-rate", "1e30", "--batch-size", 4, "--epochs", 5, "--run-dir", "run")
    ran.failed(1, "the loss became", "run/best.safetensors", "1e+30")
    kept = read_file(tmp_path / "run/best.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in kept.tensors.values())
    assert not (tmp_path / "ner.safetensors").exists()


# ------------------------------------------------------------------------- interrupted and resumed


@pytest.fixture
def interrupted(train, monkeypatch):
    """Start a run, and press Ctrl-C in its second epoch."""

    def run(*arguments):
        show = Watch.__call__

        def interrupt(self, progress):
            show(self, progress)
            if progress.epoch > 1.4:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Watch, "__call__", interrupt)
            return train("--epochs", 3, "--batch-size", 4, "--checkpoint-steps", 2, "--run-dir", "run", *arguments)

    return run


def test_ctrl_c_saves_the_best_adapter_so_far(interrupted, tmp_path):
    ran = interrupted()
    assert ran.status == 130
    assert "the best adapter so far is in ner.safetensors" in ran.err
    assert "--resume run" in ran.err
    assert read_card(tmp_path / "ner.safetensors").training["ending"] == "interrupted"


def test_a_resumed_run_needs_nothing_but_its_folder_and_ends_as_if_never_interrupted(
    interrupted, train, adapt, tmp_path, monkeypatch
):
    assert interrupted().status == 130
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = adapt("train", "--resume", "../run")
    assert ran.status == 0, ran.err
    straight = ("--epochs", 3, "--batch-size", 4, "--checkpoint-steps", 2, "-o", "straight.safetensors")
    assert train(*straight).status == 0
    resumed, whole = read_file(tmp_path / "ner.safetensors"), read_file("straight.safetensors")
    assert resumed.card.metrics == whole.card.metrics
    assert all(torch.equal(tensor, whole.tensors[name]) for name, tensor in resumed.tensors.items())


def test_a_resumed_fusion_finds_its_members_from_any_folder(interrupted, train, adapt, members, tmp_path, monkeypatch):
    assert interrupted(*members).status == 130
    straight = ("--epochs", 3, "--batch-size", 4, "--checkpoint-steps", 2, "-o", "straight.safetensors")
    assert train(*straight, *members).status == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = adapt("train", "--resume", "../run")
    assert ran.status == 0, ran.err
    resumed, whole = read_file(tmp_path / "ner.safetensors"), read_file("../straight.safetensors")
    assert all(torch.equal(tensor, whole.tensors[name]) for name, tensor in resumed.tensors.items())


def test_a_resumed_run_keeps_its_settings(interrupted, adapt, tmp_path):
    assert interrupted().status == 130
    adapt("train", "--resume", "run", "--rank", 3, "--task", "ner").failed(2, "--resume does not go with", "--rank")
    (tmp_path / "ner.safetensors").write_text("something else")
    adapt("train", "--resume", "run").failed(2, "exists already")
    ran = adapt("train", "--resume", "run", "-o", "other.safetensors")
    assert ran.status == 0
    assert (tmp_path / "other.safetensors").exists()
    adapt("train", "--resume", "run").failed(2, "came to its end", "best.safetensors")


def test_a_run_with_the_earlier_form_of_its_settings_is_resumed(interrupted, adapt, tmp_path):
    assert interrupted().status == 130
    config = tmp_path / "run/config.json"
    content = json.loads(config.read_text())
    (entry,), settings = content.pop("tasks").values(), {"backbone", "load", "output", "overwrite"}
    earlier = {"task", "method", "source", "training", "method_options", "task_options"}
    single = {**{key: content[key] for key in settings}, **{key: entry[key] for key in earlier}, "name": "ner"}
    config.write_text(json.dumps(single))
    ran = adapt("train", "--resume", "run")
    assert ran.status == 0, ran.err
    assert read_card(tmp_path / "ner.safetensors").training["ending"] == "complete"


def test_a_run_whose_data_has_changed_is_not_resumed(interrupted, adapt, conll, tmp_path):
    conll(tmp_path / "train.conll", 10)
    assert interrupted("--train", "train.conll").status == 130
    conll(tmp_path / "train.conll", 11)
    adapt("train", "--resume", "run").failed(2, "begun with other data")


def test_a_folder_that_is_no_run_is_not_resumed(adapt, tmp_path):
    adapt("train", "--resume", "nowhere").failed(2, "nowhere", "not a run's folder")
    (tmp_path / "config.json").write_text('{"training": {}')
    adapt("train", "--resume", ".").failed(2, "config.json", "damaged")


def test_a_signal_ends_a_real_process_with_the_adapter_saved(model_folder, data, tmp_path):
    code = "import sys; from adaptdock.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["train", "--task", "ner", "--backbone", str(model_folder), "--data", str(data), "--epochs", "9999"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--patience", "0", "--run-dir", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run/best.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "best adapter so far" in err
    assert read_card(tmp_path / "ner.safetensors").training["ending"] == "interrupted"


def test_the_documents_name_every_key_of_a_configuration(adapt):
    from pathlib import Path

    from adaptdock.cli.common.flags import LOADING
    from adaptdock.cli.train import NOT_IN_CONFIG, _output_flags, choose, what_flags

    text = (Path(__file__).parents[2] / "docs/commands.md").read_text()
    for flag in [*what_flags(), *_output_flags(), *LOADING.flags, *choose([]).training.flags]:
        if flag.name not in NOT_IN_CONFIG:
            assert f"`{flag.name.replace('_', '-')}`" in text


# ----------------------------------------------------------------------------------- shortfalls

UNTRAINED = "This adapter is untrained: training has not moved its weights from where they started."


def test_an_untrained_adapter_is_told_in_the_first_line_and_in_json(train, adapt):
    ran = train("--learning-rate", 1e-12)
    assert ran.status == 1, ran.err
    assert ran.out.splitlines()[0] == UNTRAINED
    assert "No sign of overfitting" not in ran.out
    assert read_card("ner.safetensors").training["shortfall"] == UNTRAINED
    again = train("--learning-rate", 1e-12, "--json", "--overwrite", "--allow-untrained")
    assert again.status == 0, again.err
    assert json.loads(again.out)["shortfall"] == UNTRAINED
    trained = train("--learning-rate", 1e-2, "--epochs", 4, "--batch-size", 4, "--json", "--overwrite")
    assert json.loads(trained.out)["shortfall"] is None


def test_few_steps_and_little_validation_data_are_told(train, conll, tmp_path):
    ran = train("--train", conll(tmp_path / "few.conll", repeats=3), "--hold-out", "always")
    assert ran.status == 0, ran.err
    assert "training steps in 1 epochs are few" in ran.err
    assert "fewer than 20 cannot tell epochs apart: the weights of the last epoch are kept" in ran.err
    assert "too small to tell overfitting" in ran.out
    assert "No sign of overfitting" not in ran.out


def test_few_labels_are_all_trained_on_and_folds_say_what_to_expect(train, conll, tmp_path):
    few = conll(tmp_path / "few.conll", repeats=3)
    planned = train("--train", few, "--few-labels-rate", 0.5, "--dry-run", "--verbose")
    assert "few labels: all 12 records are trained on" in planned.err
    assert "few labels: learning rate 0.00025 in place of 0.0005 (--few-labels-rate)" in planned.err
    assert [line.split()[-1] for line in planned.out.splitlines() if line.startswith(("hold out", "head start"))] == [
        "auto",
        "fitted",
    ]
    ran = train("--train", few)
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[1].startswith("folds")
    assert "with the adapter at half strength" in ran.out
    assert "without it" in ran.out
    (saved,) = (line for line in ran.out.splitlines() if line.startswith("saved"))
    assert "head" in saved or "adapter" in saved
    assert "fold 4 of 4: epoch" in ran.err
    assert "validation" not in read_card("ner.safetensors").metrics


# ------------------------------------------------------------------------------------------- folds


def test_folds_are_shown_with_their_mean_before_the_adapter_is_trained_as_ever(train, tmp_path):
    ran = train("--folds", 3, "--run-dir", "run", "-o", "folded.safetensors")
    assert ran.status == 0, ran.err
    assert "± " in ran.out
    assert [line.split()[0] for line in ran.out.splitlines()[1:6]] == ["1", "2", "3", "mean", "deviation"]
    assert len(json.loads((tmp_path / "run/folds.json").read_text())["folds"]) == 3
    assert train("-o", "plain.safetensors").status == 0
    folded, plain = (read_file(tmp_path / f"{name}.safetensors") for name in ("folded", "plain"))
    assert all(torch.equal(tensor, folded.tensors[name]) for name, tensor in plain.tensors.items())


def test_after_folds_alone_there_is_no_adapter(train, tmp_path):
    ran = train("--folds", 2, "--folds-only", "--json")
    assert ran.status == 0, ran.err
    assert len(json.loads(ran.out)["folds"]) == 2
    assert not (tmp_path / "ner.safetensors").exists()
    train("--folds-only").failed(2, "folds is missing")
    train("--folds", 1).failed(2, "folds", "greater than or equal to 2")


def test_texts_out_of_scope_in_validation_data_teach_a_threshold_that_predict_uses(adapt, train, tmp_path):
    texts = [f"{name} {verb} in rome" for name in ("ada", "bob") for verb in ("lives", "saw", "met", "here")]
    rows = [{"text": text, "label": text[:3]} for text in texts]
    outside = [{"text": text, "label": "other"} for text in ("nothing at all", "we we we", "oslo", "paris paris")]
    for name, lines in (("train", rows * 2 + outside), ("validation", rows * 3 + outside)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    files = ("--train", "train.jsonl", "--validation", "validation.jsonl", "--output", "a.safetensors")
    ran = train("--task", "intent", *files, "--out-of-scope", "other", "--run-dir", "run", "--allow-untrained")
    assert ran.status == 0, ran.err
    assert "train: 4 texts are out of scope (the label 'other' or none) and are not trained on" in ran.err + ran.out
    document = json.loads(adapt("inspect", "a.safetensors", "--json").out)
    options = document["card"]["task"]["options"]
    assert options["labels"] == ["ada", "bob"]
    by_distance = options["nearest_class"]
    key, limit = ("similarity", by_distance["reject_below"]) if by_distance else ("score", options["reject_below"])
    assert by_distance or limit > 0
    measured = document["card"]["metrics"]["validation"]
    assert measured.keys() >= {"accuracy_in_scope", "out_of_scope_auroc", "out_of_scope_recall"}
    answers = [
        json.loads(line) for line in adapt("predict", "a.safetensors", "--json", *texts, "oslo").out.splitlines()
    ]
    rejected = [answer for answer in answers if answer["label"] is None]
    assert all(answer[key] < limit for answer in rejected)
    assert rejected
    assert "[out of scope " in adapt("predict", "a.safetensors", *(answer["text"] for answer in rejected)).out


def test_a_curve_over_shares_of_the_labels_is_drawn_and_said_in_words(train, tmp_path, data):
    ran = train("--run-dir", "run", "--output", "a.safetensors", "--curve", "50,100", "--allow-untrained")
    assert ran.status == 0, ran.err
    assert "fold 4 of 4, 100 % of its training records" in ran.err
    verdict = json.loads((tmp_path / "run" / "label_curve.json").read_text())["verdict"]
    assert verdict in ran.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert '<h2 id="labels-curve-title">More labels</h2>' in page
    assert "f1 by labelled records" in page
    again = train("--run-dir", "run", "--output", "a.safetensors", "--overwrite", "--allow-untrained")
    assert again.status == 0, again.err
    assert not (tmp_path / "run" / "label_curve.json").exists()
    assert "More labels" not in (tmp_path / "run" / "report.html").read_text()
    train("--curve", "50").failed(2, "at least two shares in percent")
