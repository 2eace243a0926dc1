import json

import pytest
import torch
import yaml

from adaptdock.engine.training.loop.run import Run
from adaptdock.engine.training.members.members import Members
from adaptdock.errors import AdaptError
from adaptdock.hub.artefact.file import read_card, read_file

pytest.importorskip("optuna")


@pytest.fixture
def sweep(adapt, model_folder, data):
    """Run ``adapt sweep`` for one epoch a trial on the tiny data."""

    def run(*arguments):
        common = ["--task", "ner", "--backbone", model_folder, "--epochs", 1, "--precision", "fp32", "--data", data]
        return adapt("sweep", *common, "--run-dir", "sweep", *arguments)

    return run


def test_a_sweep_keeps_the_best_adapter_its_settings_a_table_and_a_picture(sweep, adapt, tmp_path):
    ran = sweep(
        "--search", "learning_rate=1e-3,5e-2", "--search", "method=lora,prefix", "--search", "rank=2,4",
        "--sampler", "grid", "-o", "best.safetensors", "--store", "float32", "--no-prune", "--together", 1,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    document = json.loads((tmp_path / "sweep/trials.json").read_text())
    trials = document["trials"]
    assert len(trials) == 2 * (2 + 1)  # rank is an option of lora alone
    assert all(("rank" in trial["values"]) is (trial["values"]["method"] == "lora") for trial in trials)
    scores = [trial["score"] for trial in trials]
    assert scores == sorted(scores, reverse=True)
    lines = [line.split() for line in ran.out.splitlines()]
    shown = lines[1 : 1 + len(trials)]
    assert [int(line[0]) for line in shown] == [trial["number"] for trial in trials]
    assert (tmp_path / "sweep/sweep.png").read_bytes().startswith(b"\x89PNG")
    for trial in trials:
        card = read_card(tmp_path / f"sweep/trial-{trial['number']:04d}/best.safetensors")
        assert card.metrics["validation"]["f1"] == trial["score"]
        assert "test" not in card.metrics
    best = read_file(tmp_path / "best.safetensors")
    assert best.card.metrics["validation"]["f1"] == scores[0]
    assert "f1" in best.card.metrics["test"]
    settings = yaml.safe_load((tmp_path / "sweep/best.yaml").read_text())
    assert {"learning-rate": settings["learning-rate"], "method": settings["method"]}.items() <= {
        "learning-rate": trials[0]["values"]["learning_rate"],
        "method": trials[0]["values"]["method"],
    }.items()
    again = adapt("train", "--config", "sweep/best.yaml", "-o", "again.safetensors")
    assert again.status == 0, again.err
    trained = read_file(tmp_path / "again.safetensors")
    assert all(tensor.equal(trained.tensors[name]) for name, tensor in best.tensors.items())
    assert trained.card.metrics == best.card.metrics


def test_trials_of_one_pass_end_as_they_do_alone(sweep, tmp_path):
    search = "--search", "learning_rate=1e-3,5e-2", "--search", "method=lora,prefix", "--sampler", "grid"
    trials, weights = {}, {}
    for together in (1, 4):
        folder = f"together-{together}"
        ran = sweep(
            *search, "--store", "float32", "--together", together, "--run-dir", folder, "-o", f"{folder}.safetensors",
        )  # fmt: skip
        assert ran.status == 0, ran.err
        rows = json.loads((tmp_path / folder / "trials.json").read_text())["trials"]
        trials[together] = {
            (row["values"]["method"], row["values"]["learning_rate"]): (row["state"], row["score"], row["epochs"])
            for row in rows
        }
        adapters = [read_file(tmp_path / folder / f"trial-{row['number']:04d}/best.safetensors") for row in rows]
        assert not list((tmp_path / folder).glob("pass-*"))
        weights[together] = {
            (adapter.card.methods[0].name, adapter.card.training["options"]["learning_rate"]): adapter.tensors
            for adapter in adapters
        }
    assert trials[1] == trials[4]
    for key, alone in weights[1].items():
        for name, tensor in alone.items():
            torch.testing.assert_close(weights[4][key][name], tensor, atol=1e-5, rtol=0, msg=f"{key} {name}")


def test_a_killed_sweep_continues_its_pass_with_the_same_bits(sweep, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    judged, calls = Members._judged, []

    def killed(self, *arguments):
        calls.append(self)
        if len(calls) == 2:
            raise Killed
        return judged(self, *arguments)

    search = "--search", "learning_rate=1e-3,5e-2", "--search", "seed=1,2", "--sampler", "grid", "--epochs", 3
    straight = sweep(*search, "--run-dir", "straight", "-o", "straight.safetensors")
    assert straight.status == 0, straight.err
    with monkeypatch.context() as patch:
        patch.setattr(Members, "_judged", killed)
        with pytest.raises(Killed):
            sweep(*search, "--study", "study.db", "-o", "resumed.safetensors")
    resumed = sweep(*search, "--study", "study.db", "--run-dir", "later", "-o", "resumed.safetensors")
    assert resumed.status == 0, resumed.err
    assert not list((tmp_path / "later").glob("trial-*"))
    for number in range(4):
        first, second = (
            read_file(tmp_path / folder / f"trial-{number:04d}/best.safetensors") for folder in ("straight", "sweep")
        )
        assert first.card.metrics == second.card.metrics
        assert all(tensor.equal(second.tensors[name]) for name, tensor in first.tensors.items())


def test_the_trials_in_a_pass_are_as_many_as_memory_allows_unless_told(sweep, monkeypatch):
    monkeypatch.setattr("adaptdock.engine.training.members.memory.free_bytes", lambda device: 1)
    ran = sweep("--search", "seed=1,2", "--sampler", "grid")
    assert ran.status == 0, ran.err
    assert "up to 1 trials train in one pass (--together): a batch keeps" in ran.err


def test_an_untrained_best_trial_is_told_in_the_first_line(sweep):
    ran = sweep("--search", "learning_rate=1e-12,2e-12", "--sampler", "grid")
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[0].startswith("This adapter is untrained")


def test_a_trial_whose_loss_is_no_number_is_told_and_the_sweep_goes_on(sweep, tmp_path):
    ran = sweep(
        "--search", "learning_rate=1e38,1e-2", "--sampler", "grid", "--warmup", 0, "--epochs", 2, "--json"
    )  # fmt: skip
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert [trial["state"] for trial in found["trials"]] == ["complete", "failed"]
    assert "the loss became" in found["trials"][1]["reason"]
    assert "failed" in ran.err
    assert found["best"] == found["trials"][0]["number"]


def test_where_every_trial_fails_one_says_why(sweep, monkeypatch):
    def fail(*_, **__):
        raise AdaptError("it cannot be trained")

    monkeypatch.setattr(Run, "__call__", fail)
    sweep("--search", "seed=1,2").failed(1, "no trial of", "it cannot be trained")


def test_ctrl_c_ends_a_sweep_with_the_best_so_far_and_a_study_goes_on(sweep, tmp_path, monkeypatch):
    whole, calls = Run.__call__, []

    def third_is_interrupted(self, progress=None, resume=False):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, progress, resume)

    monkeypatch.setattr(Run, "__call__", third_is_interrupted)
    search = ("--search", "seed=1,2,3,4", "--sampler", "grid", "--study", "study.db", "--together", 1)
    ran = sweep(*search, "-o", "first.safetensors")
    assert ran.status == 130
    assert "Interrupted" in ran.err
    assert [trial["state"] for trial in json.loads((tmp_path / "sweep/trials.json").read_text())["trials"]] == [
        "complete",
        "complete",
        "interrupted",
    ]
    assert read_card(tmp_path / "first.safetensors").training["options"]["seed"] in (1, 2, 3, 4)
    ran = sweep(*search, "-o", "second.safetensors", "--run-dir", "more")
    assert ran.status == 0, ran.err
    assert len(calls) == 3 + 2
    sweep(*search, "-o", "third.safetensors", "--rank", 3, "--run-dir", "other").failed(2, "name another --study")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--search", "learning_rat=1..2"), ("unknown key", "did you mean learning_rate, ")),
        (("--search", "length=2,4"), ("unknown key", "'length'")),
        (("--search", "precision=fp32,bf16"), ("unknown key", "'precision'")),
        (("--search", "method=lora,prefx"), ("unknown method", "did you mean prefix")),
        (("--search", "rank=8..4"), ("the range is empty: 8 is not below 4",)),
        (("--search", "rank=0,4"), ("rank", "greater than 0")),
        (("--search", "epochs=a,b"), ("epochs", "valid integer")),
        (("--search", "learning_rate=1e-4..1e-3", "--sampler", "grid"), ("grid tries every value",)),
        (("--search", "seed=1", "--sampler", "best"), ("sampler", "found 'best'")),
        ((), ("--search is missing",)),
    ],
)
def test_a_search_that_cannot_be_is_refused_and_nothing_is_written(sweep, tmp_path, options, words):
    sweep(*options).failed(2, *words)
    assert not (tmp_path / "sweep").exists()
    assert not (tmp_path / "ner.safetensors").exists()


def test_an_output_that_exists_is_kept(sweep, tmp_path):
    (tmp_path / "ner.safetensors").write_text("mine")
    sweep("--search", "seed=1").failed(2, "exists already")


def test_a_configuration_may_hold_the_search(adapt, model_folder, data, tmp_path):
    content = {
        "task": "ner", "backbone": str(model_folder), "data": str(data), "epochs": 1, "precision": "fp32",
        "search": ["rank=1,2", "method=lora,dora"], "trials": 2, "sampler": "random", "run-dir": "sweep",
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    ran = adapt("sweep", "--config", "sweep.yaml")
    assert ran.status == 0, ran.err
    assert len(json.loads((tmp_path / "sweep/trials.json").read_text())["trials"]) == 2


def test_help_shows_the_flags_of_every_method_that_is_searched(adapt):
    shown = adapt("sweep", "--task", "ner", "--search", "method=lora,prefix", "--help").out
    assert "Method lora" in shown
    assert "Method prefix" in shown
    assert "--search KEY=VALUES" in shown
    assert "--resume" not in shown


def test_without_arguments_it_says_what_is_missing(adapt) -> None:
    adapt("sweep").failed(2, "--search is missing")


def test_halving_ends_trials_after_one_and_two_epochs(adapt, model_folder, data, conll, tmp_path):
    common = ["--task", "ner", "--backbone", model_folder, "--precision", "fp32", "--epochs", 3, "--run-dir", "sweep"]
    splits = ["--train", data / "train.conll", "--validation", conll(tmp_path / "validation.conll", 8)]
    ran = adapt(
        "sweep", *common, *splits, "--search", "learning_rate=1e-9,1e-4,1e-2,5e-2", "--sampler", "grid",
        "--together", 4, "--halving", "--warmup", 0, "-o", "best.safetensors",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    trials = json.loads((tmp_path / "sweep/trials.json").read_text())["trials"]
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned
    assert {trial["epochs"] for trial in pruned} <= {1.0, 2.0}
    assert max(trial["score"] for trial in pruned) <= max(trial["score"] for trial in trials if trial not in pruned)


def test_halving_without_pruning_is_refused(sweep):
    sweep("--search", "rank=2,4", "--halving", "--no-prune").failed(
        2, "halving ends trials early, and no-prune ends none"
    )
